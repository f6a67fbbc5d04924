"""Does the embedded model draw what the prompt says? A table with counts, on prompts that no training used.

    impasto train default-model data                       # once: the icons that the scorer learns from
    python benchmarks/adherence.py [--model FOLDER] [--work impasto-training] [--sheets FOLDER] [--only colours]
    python benchmarks/adherence.py --few --name few         # the model of four steps beside it

- objects: 200 paraphrases over 20 concepts; a small image-text scorer (`scorer`) picks among the 20.
- colours: 150 "a {colour} {object} on a {colour} background", half of them of pairs that no training shows, and 30 more
  of things that it shows in their own colours only; the commonest colour of the foreground and the nearest named
  colour of the corners are judged (`objects`).
- layout: 80 prompts, 20 a relation: in both halves of the picture the scorer finds the right one of the 20.
- counts: 80 prompts, 20 a number: the foreground has that many connected parts.
- pictures beside words: `image_prompts`' rows at the wire's default strengths.
- speed: a whole 1024x768 picture, on one thread.

Every check is also run on true pictures, painted from the icons as asked: its own accuracy stands beside the model's.
No prompt is a caption of the training (checked against 20,000 of every recipe that was run). Writes
benchmarks/results/adherence-VERSION.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scorer as scoring
from image_prompts import INPUTS, ROWS, small
from image_prompts import distance as apart
from image_prompts import draw as draw_image
from objects import crop, dominant_colour, halves, parts

from impasto.flux.pipeline import Pipeline
from impasto.flux.precision import cpu_features
from impasto.training import recipe, sources
from impasto.training.captions import article, caption
from impasto.training.compose import BACKGROUNDS, paint
from impasto.training.concepts import BY_NAME, CONCEPTS, FIRST, plural, trained_palette
from impasto.training.groups import Group, Member, paint_group
from impasto.training.metrics import nearest_background
from impasto.training.places import tell
from impasto.training.records import draw_record
from impasto.training.sampling import sheet
from impasto.training.sprites import Pixels, Sprites

RESULTS = Path(__file__).parent / "results"
RECIPES = ("cpu-groups", "cpu-pairs", "cpu-persons", "cpu-all", "gpu")
"""Whose captions no prompt may be, nor those that taught the text encoder places."""
WIDTH, HEIGHT, STEPS, GUIDANCE = 128, 96, 20, 3.5
OBJECTS = (
    *("apple", "banana", "pizza", "cat", "dog", "panda", "fox", "frog", "penguin", "owl", "whale", "butterfly"),
    *("tree", "sunflower", "mushroom", "star", "car", "rocket", "house", "guitar"),
)


def _pairs(table: dict[str, tuple[str, ...]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, colour) for name, colours in table.items() for colour in colours)


UNSEEN = _pairs(
    {
        "apple": ("orange", "blue", "purple", "pink", "white", "black"),
        "fish": ("yellow", "white", "black"),
        "butterfly": ("yellow", "blue", "white"),
        "tulip": ("green", "white", "black"),
    }
)
"""Colours that no training has shown on these things, which it did show in other colours."""
NEVER = _pairs(
    {
        "umbrella": ("red", "blue", "green", "yellow"),
        "mushroom": ("blue", "purple", "green"),
        "strawberry": ("blue", "purple"),
        "tree": ("blue", "red", "purple"),
        "crown": ("red", "blue", "green"),
    }
)
"""Things that no training has shown in any colour but their own."""
PARAPHRASES = (
    "could you paint {a} for me?",
    "I would like to see {a}",
    "one {noun}, nothing else, plain {ground} behind it",
    "{a} in the middle of a {ground} area",
    "a sticker showing {a}",
    "my favourite {noun}",
    "the {noun} is the only thing in this picture, all around it is {ground}",
    "portrait of {a}",
    "{noun} clipart",
    "please make an emoji that shows {a}",
)
COUNTED = ("apple", "cat", "panda", "fox", "frog", "star", "heart", "house", "car", "pig")
RELATIONS = {
    # words, first thing first; whether side by side; whether the first stands left or above
    "left": ("{a} on the left side of {b}, {ground} background", True, True),
    "right": ("{a} on the right side of {b}, {ground} background", True, False),
    "above": ("{a} directly above {b}, {ground} background", False, True),
    "below": ("{a} directly below {b}, {ground} background", False, False),
}
NUMBERS = {1: "just one {one}", 2: "exactly two {many}", 3: "exactly three {many}", 4: "exactly four {many}"}


@dataclass(frozen=True)
class Prompt:
    """A prompt, the checks that its picture has to pass, and the true picture on which the checks are checked."""

    text: str
    checks: dict[str, Callable[[Pixels], bool]]
    truth: Callable[[Sprites], Pixels]


def _ground(rng: np.random.Generator, *taken: str | None) -> str:
    free = [name for name in BACKGROUNDS if name not in (*taken, "white", "beige", "gray")]
    return free[int(rng.integers(len(free)))]


def objects(judge: scoring.Judge, used: Set[str]) -> list[Prompt]:
    rng, asked = np.random.default_rng(501), list[Prompt]()
    for name in OBJECTS:
        concept = BY_NAME[name]
        for i, form in enumerate(PARAPHRASES):
            noun = concept.synonyms[0] if concept.synonyms and i % 3 == 1 else name
            ground = _ground(rng, concept.colour)

            def shown(picture: Pixels, name: str = name) -> bool:
                return judge.names_of([crop(picture)]) == [name]

            def truth(table: Sprites, name: str = name, ground: str = ground) -> Pixels:
                return paint(scoring.truth(name, background=ground), table, width=WIDTH, height=HEIGHT)

            asked.append(Prompt(form.format(a=article(noun), noun=noun, ground=ground), {"objects": shown}, truth))
    return asked


def colours(judge: scoring.Judge, used: Set[str]) -> list[Prompt]:
    rng, asked = np.random.default_rng(502), list[Prompt]()
    known = [(c.name, colour) for c in CONCEPTS[:FIRST] for colour in trained_palette(c)]
    for kind, count, pairs in (
        ("trained pair", 75, known),
        ("held-out pair", 75, UNSEEN),
        ("never recoloured", 30, NEVER),
    ):
        order = [*pairs] * -(-count // len(pairs))
        for name, colour in (order[int(row)] for row in rng.permutation(len(order))[:count]):
            text, ground = "", ""
            while not text or text in used:
                ground = _ground(rng, colour)
                text = f"{article(f'{colour} {name}')} on {article(ground)} background"

            def tinted(picture: Pixels, colour: str = colour) -> bool:
                return dominant_colour(picture) == colour

            def grounded(picture: Pixels, ground: str = ground) -> bool:
                return nearest_background(picture) == ground

            def truth(table: Sprites, name: str = name, colour: str = colour, ground: str = ground) -> Pixels:
                record = scoring.truth(name, background=ground, colour=colour)
                return paint(record, table, width=WIDTH, height=HEIGHT)

            checks = {f"object colour, {kind}": tinted}
            if kind != "never recoloured":
                checks |= {"background colour": grounded, "object colour": tinted}
            asked.append(Prompt(text, checks, truth))
    return asked


def layout(judge: scoring.Judge, used: Set[str]) -> list[Prompt]:
    rng, asked = np.random.default_rng(503), list[Prompt]()
    for relation, (form, across, first) in RELATIONS.items():
        for i in range(20):
            a, b = OBJECTS[i], OBJECTS[(i + 3 + int(rng.integers(14))) % 20]
            ground = _ground(rng, BY_NAME[a].colour, BY_NAME[b].colour)
            order = [a, b] if first else [b, a]

            def placed(picture: Pixels, order: list[str] = order, across: bool = across) -> bool:
                corner = np.median(np.concatenate([picture[:6].reshape(-1, 3), picture[-6:].reshape(-1, 3)]), axis=0)
                plain = (float(corner[0]), float(corner[1]), float(corner[2]))
                return judge.names_of([crop(half, plain) for half in halves(picture, across=across)]) == order

            def truth(table: Sprites, order: list[str] = order, across: bool = across, ground: str = ground) -> Pixels:
                members = tuple(Member(name, None) for name in order)
                record = Group(members, "row" if across else "column", "3d", ground, None, 0, (2, -2, 1))
                return paint_group(record, table, width=WIDTH, height=HEIGHT)

            text = form.format(a=article(a), b=article(b), ground=ground)
            asked.append(Prompt(text, {"layout": placed, f"layout, {relation}": placed}, truth))
    return asked


def counts(judge: scoring.Judge, used: Set[str]) -> list[Prompt]:
    rng, asked = np.random.default_rng(504), list[Prompt]()
    for count, form in NUMBERS.items():
        for i in range(20):
            name = COUNTED[i % len(COUNTED)]
            ground = _ground(rng, BY_NAME[name].colour)

            def counted(picture: Pixels, count: int = count) -> bool:
                return len(parts(picture)) == count

            def truth(table: Sprites, name: str = name, count: int = count, ground: str = ground) -> Pixels:
                if count == 1:
                    return paint(scoring.truth(name, background=ground), table, width=WIDTH, height=HEIGHT)
                members = (Member(name, None),) * count
                record = Group(members, "row" if count == 2 else "grid", "3d", ground, None, 0, (2, -2, 1))
                return paint_group(record, table, width=WIDTH, height=HEIGHT)

            text = f"{form.format(one=name, many=plural(BY_NAME[name]))}, {ground} background"
            asked.append(Prompt(text, {"counts": counted, f"counts, {count}": counted}, truth))
    return asked


PARTS: dict[str, Callable[[scoring.Judge, Set[str]], list[Prompt]]] = {
    "objects": objects,
    "colours": colours,
    "layout": layout,
    "counts": counts,
}


def captions_of(name: str) -> Set[str]:
    """20,000 captions of a recipe's mix."""
    rng, mix = np.random.default_rng(505), recipe.load(name).mix
    return {caption(draw_record(rng, mix), rng) for _ in range(20_000)}


@cache
def used_captions() -> Set[str]:
    """Those of all recipes, and 20,000 of `training.places`."""
    rng, mix = np.random.default_rng(506), recipe.load("cpu-pairs").mix  # whose captions taught the places
    return {tell(rng, mix).text for _ in range(20_000)}.union(*map(captions_of, RECIPES))


def tally(asked: list[Prompt], pictures: list[Pixels]) -> dict[str, tuple[int, int]]:
    """Right and asked, for every check."""
    found: dict[str, list[bool]] = {}
    for prompt, picture in zip(asked, pictures, strict=True):
        for name, check in prompt.checks.items():
            found.setdefault(name, []).append(check(picture))
    return {name: (sum(right), len(right)) for name, right in found.items()}


def draw(pipeline: Pipeline, prompt: str, *, seed: int, steps: int = STEPS, scale: int = 1) -> Pixels:
    size = {"height": scale * HEIGHT, "width": scale * WIDTH}
    *_, last = pipeline.denoise(pipeline.encode(prompt), seed=seed, index=0, steps=steps, guidance=GUIDANCE, **size)
    return pipeline.decode(last.latents, **size)


def beside_words(pipeline: Pipeline) -> dict[str, str]:
    """Of 20 pictures given, how often the given one is nearest to the outcome, at the wire's default strengths."""
    inputs = [draw_image(pipeline, prompt, seed=100 + i) for i, prompt in enumerate(INPUTS)]
    shrunk, found = [small(picture) for picture in inputs], dict[str, str]()
    for row in (row for row in ROWS if "default" in row.name):
        hits = 0
        for i, source in enumerate(inputs):
            prompt = INPUTS[(i + 7) % len(INPUTS)] if row.text else ""
            outcome = small(draw_image(pipeline, prompt, seed=i, row=row, source=source))
            hits += int(np.argmin([apart(outcome, one) for one in shrunk])) == i
        found[row.name] = f"{hits}/{len(inputs)}"
    return found


def speed(pipeline: Pipeline, model: str | Path) -> dict[str, dict[str, float]]:
    """Seconds of loading (libraries already imported) and of a whole 1024x768 picture, the better of three: by the
    clock and of CPU time.
    """
    wall, used = time.perf_counter(), time.process_time()
    Pipeline.load(model)
    loading = {"wall_s": round(time.perf_counter() - wall, 3), "cpu_s": round(time.process_time() - used, 3)}
    found: dict[str, dict[str, float]] = {"loading": loading}
    for steps in (28, 4):
        runs: list[tuple[float, float]] = []
        for seed in range(3):
            wall, used = time.perf_counter(), time.process_time()
            draw(pipeline, "a red fox on a green background", seed=seed, steps=steps, scale=8)
            runs.append((time.perf_counter() - wall, time.process_time() - used))
        found[f"{steps} steps"] = {"wall_s": round(min(runs)[0], 3), "cpu_s": round(min(r[1] for r in runs), 3)}
    return found


def measure(
    name: str, pipeline: Pipeline, judge: scoring.Judge, table: Sprites, sheets: Path | None, *, steps: int
) -> dict[str, dict[str, int]]:
    """One part: draws its prompts, prints and returns the counts."""
    used = used_captions()
    asked = PARTS[name](judge, used)
    if repeated := used & {prompt.text for prompt in asked}:
        raise SystemExit(f"{name}: captions of the training: {sorted(repeated)[:3]}")
    pictures = [draw(pipeline, prompt.text, seed=1000 + i, steps=steps) for i, prompt in enumerate(asked)]
    ceiling = tally(asked, [prompt.truth(table) for prompt in asked])
    found: dict[str, dict[str, int]] = {}
    for check, (right, count) in tally(asked, pictures).items():
        found[check] = {"right": right, "of": count, "true pictures": ceiling[check][0]}
        print(f"| {check} | {right}/{count} | {right / count:.1%} | {ceiling[check][0] / count:.1%} |", flush=True)
    if sheets is not None:
        sheets.mkdir(parents=True, exist_ok=True)
        texts = [
            f"{'' if all(check(picture) for check in prompt.checks.values()) else 'X '}{prompt.text}"
            for prompt, picture in zip(asked, pictures, strict=True)
        ]
        sheet(pictures, texts, columns=12).save(sheets / f"{name}.png")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="impasto-mini", help="Name or folder of the checkpoint.")
    parser.add_argument("--work", type=Path, default=Path("impasto-training"))
    parser.add_argument("--sheets", type=Path, help="Also write a sheet a part, failures marked with X.")
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "images", "speed"])
    parser.add_argument("--steps", type=int, help="Instead of 20, or of 4 with --few.")
    parser.add_argument("--few", action="store_true", help="The model of few steps that lies beside it.")
    parser.add_argument("--name", help="Of the result, instead of the version.")
    options = parser.parse_args()
    table = Sprites.load(options.work / "sprites.npz")
    judge = scoring.Judge(scoring.train(table, sources.STYLES, options.work / "scorer.pt"), OBJECTS)
    model = Path(options.model) if Path(options.model).is_dir() else options.model
    pipeline, steps = Pipeline.load(model), options.steps or STEPS
    if options.few:
        (pipeline,) = pipeline.siblings
        steps = options.steps or pipeline.spec.default_steps
    file = RESULTS / f"adherence-{options.name or pipeline.spec.version}.json"
    for part in options.only or (*PARTS, "images", "speed"):
        found: dict[str, Any]
        if part in PARTS:
            checks = measure(part, pipeline, judge, table, options.sheets, steps=steps)
            found = {"checks": checks}
        elif part == "images":
            found = {"nearest is the picture given": beside_words(pipeline)}
            print(found, flush=True)
        else:
            found = {"1024x768": {"features": sorted(cpu_features()), **speed(pipeline, model)}}
            print(found, flush=True)
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        checks = report.get("checks", {}) | found.pop("checks", {})
        model_name = f"{pipeline.spec.name} {pipeline.spec.version}"
        report |= {"model": model_name, "steps": steps, "checks": checks, **found}
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
