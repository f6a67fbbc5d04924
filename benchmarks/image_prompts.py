"""Does a picture that was given show in the picture that comes out? 20 inputs, through the product's own pipeline.

    python benchmarks/image_prompts.py [--sheet sheet.png]

The inputs are drawn by the embedded model itself (20 concepts and backgrounds, seeds of their own). Each is given once
per row of the table; an output counts when, of the 20 inputs, the one that was given is nearest to it: mean squared
error of the pixels at 16x12. Chance is 5 %. The prompt, where there is one, asks for another thing on another
background. `other seed` is the mean distance between the outputs of two seeds, beside the mean distance
between two inputs. Writes benchmarks/results/image_prompts.json.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from impasto.flux.pipeline import Init, Pipeline, Pixels, Reference

RESULTS = Path(__file__).parent / "results" / "image_prompts.json"
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
    Row("redux, no prompt, 0.3", "prompt", 0.3, ""),
    Row("redux, no prompt, 0.4", "prompt", 0.4, ""),
    Row("redux, with prompt, 0.4", "prompt", 0.4, "other"),
    Row("ultra 0 (words alone)", "prompt", 0.0, "other"),
    Row("ultra 0.1 (default)", "prompt", 0.1, "other"),
    Row("ultra 0.1, no prompt", "prompt", 0.1, ""),
    Row("ultra 0.5", "prompt", 0.5, "other"),
    Row("ultra 0.8", "prompt", 0.8, "other"),
)


def draw(pipeline: Pipeline, prompt: str, *, seed: int, row: Row | None = None, source: Pixels | None = None) -> Pixels:
    init, reference = None, None
    if row is not None and source is not None:
        latents = pipeline.encode_image(source, height=HEIGHT, width=WIDTH)
        init = Init(latents, row.strength) if row.role == "init" else None
        reference = Reference(latents, row.strength) if row.role == "prompt" else None
    *_, last = pipeline.denoise(
        pipeline.encode(prompt),
        seed=seed,
        index=0,
        height=HEIGHT,
        width=WIDTH,
        steps=row.steps if row else 28,
        guidance=GUIDANCE,
        init=init,
        reference=reference,
    )
    return pipeline.decode(last.latents, height=HEIGHT, width=WIDTH)


def small(pixels: Pixels) -> np.ndarray:
    return np.array(Image.fromarray(pixels).resize((16, 12), Image.Resampling.BOX)).astype(float) / 255


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(((one - other) ** 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=Path, help="Also write a contact sheet: inputs, then a line a row.")
    sheet_path = parser.parse_args().sheet
    pipeline = Pipeline.load("impasto-mini")
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
        nearest = [int(np.argmin([distance(small(o), s) for s in shrunk])) for o in outputs]
        own = float(np.mean([distance(small(o), s) for o, s in zip(outputs, shrunk, strict=True)]))
        hits = sum(i == n for i, n in enumerate(nearest))
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
