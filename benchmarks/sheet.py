"""56 prompts in three seeds each, drawn by the shipped weights through the product's own pipeline; nothing is chosen.

    python benchmarks/sheet.py --out docs/images/impasto-mini.jpg [--model FOLDER]
    python benchmarks/sheet.py --out docs/images/impasto-mini-schnell.jpg --few    # the model of four steps beside it

Pictures are drawn at 256x192, enlarged as any picture is, and shown small, so that the sheet stays one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from impasto.flux.pipeline import Pipeline, Pixels
from impasto.training.sampling import sheet

WIDTH, HEIGHT, STEPS, GUIDANCE = 160, 120, 20, 3.5
SEEDS = (1, 2, 3)
PROMPTS = (
    "a red apple",
    "a cat",
    "a dog on grass under a blue sky",
    "a panda on a pink background",
    "a rocket in space",
    "a slice of pizza",
    "a blue car on a white background",
    "a green heart on a black background",
    "a house at sunset",
    "a penguin in the snow",
    "a fox on a green background",
    "an ice cream on a beach",
    "a birthday cake",
    "a crown on a navy background",
    "a smiling face",
    "a robot on a teal background",
    "a guitar, flat icon, orange background",
    "a cartoon owl",
    "a flat illustration of a sailboat",
    "a cartoon of a tree in a field",
    "a purple balloon",
    "a black cap on a yellow background",
    "a pink butterfly on a light blue background",
    "a yellow tulip on a purple background",
    "please make a sticker of a frog",
    "my favourite football",
    "a portrait of a lion, plain gray backdrop",
    "I would like a whale on a beige background",
    "a puppy",
    "a spaceship on a red background",
    "a blue apple on a yellow background",
    "a red umbrella",
    "two apples on a green background",
    "three stars on a navy background",
    "four hearts",
    "two owls on a pink background",
    "a cat to the left of a dog",
    "a tree to the right of a house",
    "a star above a heart on a black background",
    "a penguin below a balloon",
    "a blue fish and a red apple",
    "a frog between a pig and a lion",
    "an elephant",
    "a castle on a hill",
    "a horse",
    "a bicycle on a gray background",
    "a blue dress",
    "a pumpkin in the snow",
    "a woman with red hair",
    "an old man with dark skin on a teal background",
    "a baby on a pink background",
    "a bald man, flat icon",
    "a boy and a girl",
    "ein roter Apfel",
    "a photograph of a busy street",
    "an astronaut riding a horse",
)


def draw(pipeline: Pipeline, prompt: str, seed: int, steps: int) -> Pixels:
    *_, last = pipeline.denoise(
        pipeline.encode(prompt), seed=seed, index=0, height=HEIGHT, width=WIDTH, steps=steps, guidance=GUIDANCE
    )
    return pipeline.decode(last.latents, height=HEIGHT, width=WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="impasto-mini", help="Name or folder of the checkpoint.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--few", action="store_true", help="The model of few steps that lies beside it.")
    options = parser.parse_args()
    pipeline, steps = Pipeline.load(Path(options.model) if Path(options.model).is_dir() else options.model), STEPS
    if options.few:
        (pipeline,) = pipeline.siblings
        steps = pipeline.spec.default_steps
    rows = [np.concatenate([draw(pipeline, prompt, seed, steps) for seed in SEEDS], axis=1) for prompt in PROMPTS]
    page = sheet(rows, PROMPTS, columns=4)
    for quality in (88, 80, 72, 64):
        page.save(options.out, quality=quality, optimize=True)
        if options.out.stat().st_size < 500_000:
            break
    print(f"{options.out}: {Image.open(options.out).size}, {options.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
