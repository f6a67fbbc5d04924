"""How well does the embedded model's autoencoder give back a picture? Compositions of a seed that training never draws.

    impasto train default-model data                       # once: the sprites
    python benchmarks/autoencoder.py [--work impasto-training]

PSNR in dB, peak 255, mean over the pictures (256x192 pixels: what 1024x768 is enlarged from), beside the best *linear*
decoder of the same encoder, which is what its 16 numbers an 8x8 block say by themselves. Writes
benchmarks/results/autoencoder.json.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from impasto.flux.autoencoder import Autoencoder
from impasto.training.autoencoder import HELD_OUT, decibels, psnr, sample_pixels, started
from impasto.training.pca import read
from impasto.training.recipe import load
from impasto.training.sprites import Sprites

RESULTS = Path(__file__).parent / "results" / "autoencoder.json"
SHIPPED = Path(__file__).parents[1] / "src/impasto/weights/impasto-mini/autoencoder.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("impasto-training"))
    parser.add_argument("--file", type=Path, default=SHIPPED)
    parser.add_argument("--recipe", default="gpu", help="whose pictures are judged")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sprites = Sprites.load(arguments.work / "sprites.npz")
    recipe = load(arguments.recipe)
    model = started(recipe.autoencoder, arguments.file).channels_last().eval()
    linear = read(model.encoder, recipe.autoencoder.params)
    drawn, any_size = recipe.mix, recipe.autoencoder.mix
    mixes = {
        "one thing, in the sizes that the transformer draws": replace(drawn, pairs=0.0, counts=0.0),
        "several things, in the sizes that the transformer draws": replace(drawn, pairs=0.5, counts=0.5),
        "all that the transformer draws": drawn,
        "one thing, of any size and place": replace(any_size, pairs=0.0, counts=0.0),
    }
    report: dict[str, object] = {"pictures": arguments.pictures}
    for name, mix in mixes.items():
        pixels = sample_pixels(sprites, mix, arguments.pictures, HELD_OUT, side=recipe.autoencoder.side)
        row = {"psnr_db": psnr(model, pixels), "linear_db": decibels(linear.decode(linear.encode(pixels)), pixels)}
        report[name] = {key: round(value, 2) for key, value in row.items()}
        print(f"{name:<58} {row['psnr_db']:.2f} dB (linear {row['linear_db']:.2f})", flush=True)
    report["decode_256x192_cpu_ms"] = round(decode_ms(model), 1)
    print(f"decoding 256x192 on one thread: {report['decode_256x192_cpu_ms']} ms of CPU time")
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def decode_ms(model: Autoencoder, *, width: int = 256, height: int = 192, count: int = 9) -> float:
    """CPU time of decoding one picture in float32, the median of `count`."""
    latents = torch.randn(1, model.params.z_channels, height // 8, width // 8)
    took: list[float] = []
    for _ in range(count):
        began = time.process_time()
        model.decode(latents)
        took.append(time.process_time() - began)
    return 1000 * statistics.median(took)


if __name__ == "__main__":
    main()
