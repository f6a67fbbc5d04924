"""Does a picture that was given show in the picture that comes out? 20 inputs, through the product's own pipeline.

    python benchmarks/image_prompts.py [--sheet sheet.png]
    python benchmarks/image_prompts.py --grid

The inputs are drawn by the embedded model itself (20 concepts and backgrounds, seeds of their own). Each is given once
per row of the table; an output counts when, of the 20 inputs, the one that was given is nearest to it: mean squared
error of the pixels at 16x12. Chance is 5 %. The prompt, where there is one, asks for another thing on another
background. `other seed` is the mean distance between the outputs of two seeds, beside the mean distance
between two inputs. Writes benchmarks/results/image_prompts.json.

`--grid` chooses the strengths that redux has no field for, on the first 10 inputs at 128x96, and
writes benchmarks/results/redux_strength.json. An output *resembles* when its input is the nearest of the 10 inputs, it
*follows* when its words' own picture (the words alone, another seed) is nearest to it of the 10 words' pictures. The
lowest strength at which all resemble is chosen, with words and without.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from impasto.engine.pictures import LATENT_STRENGTH, LATENT_STRENGTH_WITH_WORDS
from impasto.flux.pipeline import Init, Pipeline, Pixels, Reference

RESULTS = Path(__file__).parent / "results" / "image_prompts.json"
GRID = RESULTS.with_name("redux_strength.json")
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WIDTH, HEIGHT, GUIDANCE = 256, 192, 3.5

INPUTS = (
    "a red apple on a blue background",
    "a fox in the snow",
    "a yellow car on a green background",
    "a panda on a pink background",
    "a rocket on a night sky",
    "a house on a meadow",
    "a sunflower on a white background",
    "a whale on a teal background",
    "a pizza on a gray background",
    "a frog on an orange background",
    "a green tree on a beach",
    "a purple butterfly on a yellow background",
    "a ghost on a black background",
    "a banana on a light blue background",
    "a penguin on a purple background",
    "a guitar on a beige background",
    "a sailboat at sunset",
    "a pink heart on a navy background",
    "an owl on a red background",
    "a snowman on a green background",
)


@dataclass(frozen=True)
class Row:
    """`text`: "" (the picture alone), "other" (the prompt of the seventh input after it)."""

    name: str
    role: str
    strength: float
    text: str
    steps: int = 28


ROWS = (
    Row("image-to-image 0.3", "init", 0.3, "other", 40),
    Row("image-to-image 0.6", "init", 0.6, "other", 40),
    Row("image-to-image 0.8", "init", 0.8, "other", 40),
    Row("image-to-image 0.95 (default)", "init", 0.95, "other", 40),
    Row(f"redux, no prompt, {LATENT_STRENGTH} (default)", "prompt", LATENT_STRENGTH, ""),
    Row("redux, with prompt, 0.4", "prompt", 0.4, "other"),
    Row(f"redux, with prompt, {LATENT_STRENGTH_WITH_WORDS} (default)", "prompt", LATENT_STRENGTH_WITH_WORDS, "other"),
    Row("ultra 0 (words alone)", "prompt", 0.0, "other"),
    Row("ultra 0.1 (default)", "prompt", 0.1, "other"),
    Row("ultra 0.1, no prompt", "prompt", 0.1, ""),
    Row("ultra 0.5", "prompt", 0.5, "other"),
    Row("ultra 0.8", "prompt", 0.8, "other"),
)


def draw(
    pipeline: Pipeline,
    prompt: str,
    *,
    seed: int,
    row: Row | None = None,
    source: Pixels | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Pixels:
    height, width = size
    init, reference = None, None
    if row is not None and source is not None:
        latents = pipeline.encode_image(source, height=height, width=width)
        init = Init(latents, row.strength) if row.role == "init" else None
        reference = Reference(latents, row.strength) if row.role == "prompt" else None
    *_, last = pipeline.denoise(
        pipeline.encode(prompt),
        seed=seed,
        index=0,
        height=height,
        width=width,
        steps=row.steps if row else 28,
        guidance=GUIDANCE,
        init=init,
        reference=reference,
    )
    return pipeline.decode(last.latents, height=height, width=width)


def small(pixels: Pixels) -> np.ndarray:
    return np.array(Image.fromarray(pixels).resize((16, 12), Image.Resampling.BOX)).astype(float) / 255


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(((one - other) ** 2).mean())


def nearest(picture: np.ndarray, others: list[np.ndarray]) -> int:
    return int(np.argmin([distance(picture, other) for other in others]))


def grid(pipeline: Pipeline) -> None:
    """What every one of `STRENGTHS` does."""
    size, prompts = (96, 128), INPUTS[:10]
    inputs = [draw(pipeline, prompt, seed=100 + i, size=size) for i, prompt in enumerate(prompts)]
    words = [draw(pipeline, prompt, seed=200 + i, size=size) for i, prompt in enumerate(prompts)]
    shrunk, spoken = [small(p) for p in inputs], [small(p) for p in words]
    between = float(np.mean([distance(a, b) for i, a in enumerate(shrunk) for b in shrunk[:i]]))
    table: dict[str, list[dict[str, float]]] = {"with words": [], "without words": []}
    for kind, rows in table.items():
        for strength in STRENGTHS:
            row = Row(kind, "prompt", strength, "")
            resembles, follows, spread = [], [], []
            for i, source in enumerate(inputs):
                other = (i + 7) % len(prompts)
                prompt = prompts[other] if kind == "with words" else ""
                output = small(draw(pipeline, prompt, seed=i, row=row, source=source, size=size))
                resembles.append(nearest(output, shrunk) == i)
                follows.append(nearest(output, spoken) == other)
                spread.append(distance(output, shrunk[i]))
            both = sum(r and f for r, f in zip(resembles, follows, strict=True))
            rows.append(
                {
                    "strength": strength,
                    "resembles": sum(resembles),
                    **({"follows": sum(follows), "both": both} if kind == "with words" else {}),
                    "distance to the input": round(float(np.mean(spread)), 5),
                }
            )
            print(kind, rows[-1], flush=True)
    report = {
        "model": f"{pipeline.spec.name} {pipeline.spec.version}",
        "inputs": len(inputs),
        "between inputs": round(between, 5),
        **table,
    }
    GRID.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="Also write a contact sheet: inputs, then a line a row.")
    parser.add_argument("--grid", action="store_true", help="Only choose the strengths of redux.")
    options = parser.parse_args()
    sheet_path, pipeline = options.sheet, Pipeline.load("impasto-mini")
    if options.grid:
        grid(pipeline)
        return
    inputs = [draw(pipeline, prompt, seed=100 + i) for i, prompt in enumerate(INPUTS)]
    shrunk = [small(picture) for picture in inputs]
    between = float(np.mean([distance(a, b) for i, a in enumerate(shrunk) for b in shrunk[:i]]))
    lines, table = [inputs], []
    for row in ROWS:
        outputs, seeds = [], []
        for i, source in enumerate(inputs):
            prompt = INPUTS[(i + 7) % len(INPUTS)] if row.text else ""
            outputs.append(draw(pipeline, prompt, seed=i, row=row, source=source))
            if i < 5:
                again = draw(pipeline, prompt, seed=1000 + i, row=row, source=source)
                seeds.append(distance(small(outputs[-1]), small(again)))
        found = [nearest(small(o), shrunk) for o in outputs]
        own = float(np.mean([distance(small(o), s) for o, s in zip(outputs, shrunk, strict=True)]))
        hits = sum(i == n for i, n in enumerate(found))
        table.append(
            {
                "name": row.name,
                "steps": row.steps,
                "nearest is the input": hits / len(inputs),
                "distance to the input": round(own, 5),
                "other seed": round(float(np.mean(seeds)), 5),
            }
        )
        print(f"| {row.name} | {hits / len(inputs):.0%} | {own:.4f} | {np.mean(seeds):.4f} |", flush=True)
        lines.append(outputs)
    print(f"two inputs are {between:.4f} apart")
    report = {
        "model": f"{pipeline.spec.name} {pipeline.spec.version}",
        "inputs": len(inputs),
        "between inputs": round(between, 5),
        "rows": table,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if sheet_path is not None:
        rows = [np.concatenate([p[::2, ::2] for p in line[:10]], axis=1) for line in lines]
        Image.fromarray(np.concatenate(rows)).save(sheet_path)


if __name__ == "__main__":
    main()
