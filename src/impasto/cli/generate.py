"""`impasto generate`: a picture without a server."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from impasto.cli.group import load, main, model_options
from impasto.errors import ModelError


@main.command()
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write: .jpeg, .jpg or .png (default: impasto.jpeg).",
)
@click.option("--size", default="landscape_4_3", show_default=True, help="A preset such as square_hd, or WIDTHxHEIGHT.")
@click.option("--steps", type=int, default=28, show_default=True, help="Denoising steps, 1 to 50.")
@click.option("--seed", type=int, help="Same seed, same prompt, same picture (default: a random one, printed).")
@click.option(
    "--guidance", type=float, default=3.5, show_default=True, help="How closely to follow the prompt, 1 to 20."
)
@click.option("--num-images", type=int, default=1, show_default=True, help="Pictures to draw, 1 to 4.")
@click.option(
    "--lora",
    "loras",
    metavar="PATH|URL[:SCALE]",
    multiple=True,
    help="A LoRA to draw with: a .safetensors file, a URL or owner/name of the hub; may be given several times.",
)
@click.option(
    "--preview/--no-preview", default=None, help="Show the picture in the terminal (default: if it shows colours)."
)
@model_options
@click.pass_context
def generate(ctx: click.Context, prompt: str, output: Path | None, **options: Any) -> None:
    """Draw PROMPT to a file, without a server.

    \b
    Examples:
      impasto generate "a red apple"
      impasto generate "a rocket on a blue background" -o rocket.png --size 1024x768 --seed 7
      impasto generate "a red fox" --model flux.1-dev --lora ink.safetensors:0.8
    """
    from impasto import terminal
    from impasto.generate import generate_files

    preview = options["preview"]
    tree = load(ctx, model_name=options["model"], model_device=options["device"], model_threads=options["threads"])
    try:
        generate_files(
            tree,
            prompt=prompt,
            output=output or Path("impasto.jpeg"),
            size=options["size"],
            steps=options["steps"],
            seed=options["seed"],
            guidance=options["guidance"],
            num_images=options["num_images"],
            loras=options["loras"],
            preview=terminal.shows_pictures(sys.stderr, os.environ) if preview is None else preview,
        )
    except ModelError as error:
        lines = [f"{'.'.join(item['loc'][1:])}: {item['msg']}" for item in error.items]
        raise click.UsageError("\n".join(lines), ctx) from None
