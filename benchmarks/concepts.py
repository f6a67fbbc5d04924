"""Does the shipped model draw what a prompt names? Two prompts a concept, through the product's own pipeline.

    impasto train default-model data                       # once: the sprites that pictures are compared with
    python benchmarks/concepts.py [--work impasto-training]

A picture counts when its nearest sprite of 64 is the asked concept's, and its corners' nearest colour of 14 the asked
one (`impasto.training.metrics`). The training was scored on other prompts than these (seeds 100 and 101); some
of the sentences do occur among its captions. Writes benchmarks/results/concepts.json.
"""

import argparse
import json
from pathlib import Path

from impasto.flux.pipeline import Pipeline
from impasto.training.concepts import FIRST
from impasto.training.metrics import accuracy, judged_prompts
from impasto.training.sprites import Sprites

RESULTS = Path(__file__).parent / "results" / "concepts.json"
WIDTH, HEIGHT, STEPS, GUIDANCE = 512, 384, 28, 3.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("impasto-training"))
    sprites = Sprites.load(parser.parse_args().work / "sprites.npz")
    pipeline = Pipeline.load("impasto-mini")
    asked = [a for seed in (100, 101) for a in judged_prompts(seed, FIRST)]
    pictures = []
    for number, a in enumerate(asked):
        steps = pipeline.denoise(
            pipeline.encode(a.prompt),
            seed=number,
            index=0,
            height=HEIGHT,
            width=WIDTH,
            steps=STEPS,
            guidance=GUIDANCE,
        )
        *_, last = steps
        pictures.append(pipeline.decode(last.latents, height=HEIGHT, width=WIDTH))
    scores = accuracy(pictures, asked, sprites, FIRST)
    print(f"{len(asked)} prompts: {scores}")
    report = {
        "model": f"{pipeline.spec.name} {pipeline.spec.version}",
        "prompts": len(asked),
        "concept": scores.concept,
        "background": scores.background,
        "missed": list(scores.missed),
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
