"""Does the shipped model draw what a prompt names? Two prompts a concept, through the product's own pipeline.

    impasto train default-model data                       # once: the sprites that pictures are compared with
    python benchmarks/concepts.py [--work impasto-training]

A picture counts when its nearest sprite of those that the model knows is the asked concept's, and its corners' nearest
colour of 14 the asked one (`impasto.training.metrics`). The training was scored on other prompts than these (seeds 100
and 101); some of the sentences do occur among its captions. Writes benchmarks/results/concepts.json.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from impasto.flux.pipeline import Pipeline
from impasto.training.compose import known
from impasto.training.concepts import CONCEPTS, FIRST, PEOPLE, Concept
from impasto.training.metrics import Scores, accuracy, judged_prompts
from impasto.training.recipe import load
from impasto.training.sprites import Pixels, Sprites

RESULTS = Path(__file__).parent / "results" / "concepts.json"
WIDTH, HEIGHT, GUIDANCE = 512, 384, 3.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("impasto-training"))
    parser.add_argument("--model", default="impasto-mini", help="a model's name, or a checkpoint's folder")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--recipe", default="gpu", help="whose things and persons are judged")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sprites = Sprites.load(arguments.work / "sprites.npz")
    pipeline = Pipeline.load(arguments.model)
    every = known(load(arguments.recipe).mix)
    groups = {
        "the first 64 things": CONCEPTS[:FIRST],
        "newer things": tuple(c for c in every if c in CONCEPTS[FIRST:]),
        "persons": tuple(c for c in every if c in PEOPLE),
    }
    report: dict[str, object] = {"model": f"{pipeline.spec.name} {pipeline.spec.version}", "steps": arguments.steps}
    for name, group in groups.items():
        scores, count = judge(pipeline, sprites, group, every, arguments.steps)
        print(f"{name}: {count} prompts: {scores}", flush=True)
        report[name] = {"prompts": count, **asdict(scores)}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def judge(
    pipeline: Pipeline, sprites: Sprites, group: Sequence[Concept], among: Sequence[Concept], steps: int
) -> tuple[Scores, int]:
    """Draw two prompts a concept of the group; the scores among all that the model knows, and the prompts' number."""
    asked = [a for seed in (100, 101) for a in judged_prompts(seed, group)]
    pictures = [picture(pipeline, a.prompt, seed=number, steps=steps) for number, a in enumerate(asked)]
    return accuracy(pictures, asked, sprites, among), len(asked)


def picture(pipeline: Pipeline, prompt: str, *, seed: int, steps: int) -> Pixels:
    """One picture of the prompt, by the product's own pipeline."""
    *_, last = pipeline.denoise(
        pipeline.encode(prompt), seed=seed, index=0, height=HEIGHT, width=WIDTH, steps=steps, guidance=GUIDANCE
    )
    return pipeline.decode(last.latents, height=HEIGHT, width=WIDTH)


if __name__ == "__main__":
    main()
