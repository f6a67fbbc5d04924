"""`impasto train default-model …`: make the embedded model from nothing but icon packages and this program.

data         fetch the packages, render the sprites
places       teach the text encoder where the things of a prompt stand
autoencoder  fit the encoder, train the decoder
transformer  train the transformer
sheet        draw prompts with the current weights, and score them
export       write the checkpoint that is shipped
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

WORK = click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("impasto-training"),
    show_default=True,
    help="Folder of packages, caches and training states.",
)
RECIPE = click.option("--recipe", default="cpu", show_default=True, help="cpu, gpu, or a path to a TOML file.")
DEVICE = click.option("--device", default="cpu", show_default=True, help="Torch device to train on.")


def _until(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--steps", type=int, help="End after this many steps in all."),
        click.option("--minutes", type=float, help="End after this many minutes."),
        click.option("--until", metavar="HH:MM", help="End at this time of day."),
    ):
        command = option(command)
    return command


@click.group()
def train() -> None:
    """Train the models that impasto ships."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


@train.group("default-model")
def default_model() -> None:
    """The embedded model: data, places, autoencoder, transformer, sheet, export, in this order."""


@default_model.command()
@WORK
@RECIPE
def data(work: Path, recipe: str) -> None:
    """Fetch the icon packages with npm and render the sprites."""
    from impasto.training import runs

    runs.make_sprites(work, runs.load(recipe))


@default_model.command()
@WORK
@RECIPE
@click.option("--steps", default=700, show_default=True, help="Steps of 96 captions.")
def places(work: Path, recipe: str, steps: int) -> None:
    """Teach two layers behind MiniLM to read from words where things stand; without, the shipped ones are used."""
    from impasto.training import runs

    click.echo(f"places read right: {runs.train_places(work, runs.load(recipe), steps=steps):.1%}")


@default_model.command()
@WORK
@RECIPE
@DEVICE
@_until
def autoencoder(work: Path, recipe: str, device: str, **end: Any) -> None:
    """Fit the encoder and train the decoder; resumes. Give one of --steps, --minutes, --until."""
    from impasto.training import runs

    runs.train_autoencoder(work, runs.load(recipe), device, runs.deadline(**end))


@default_model.command()
@WORK
@RECIPE
@DEVICE
@click.option("--report-minutes", default=10.0, show_default=True, help="Draw a sample sheet this often; 0: never.")
@_until
def transformer(work: Path, recipe: str, device: str, report_minutes: float, **end: Any) -> None:
    """Cache the data set, then train the transformer; resumes. Give one of --steps, --minutes, --until."""
    from impasto.training import runs

    runs.train_transformer(work, runs.load(recipe), device, runs.deadline(**end), report_minutes=report_minutes)


@default_model.command()
@WORK
@RECIPE
@click.option("--prompt", "prompts", multiple=True, help="Prompt to draw; may be repeated. Without: the fixed list.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="Picture to write.")
def sheet(work: Path, recipe: str, prompts: tuple[str, ...], out: Path) -> None:
    """Draw a sheet of prompts with the averaged weights, and score the concepts."""
    from impasto.training import runs

    for line in runs.draw_sheet(work, runs.load(recipe), prompts, out):
        click.echo(line)


@default_model.command()
@WORK
@RECIPE
@click.option("--version", required=True, help="Version to write into config.json.")
@click.option(
    "--out",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Checkpoint folder that holds the text encoder.",
)
def export(work: Path, recipe: str, version: str, out: Path) -> None:
    """Write transformer, autoencoder, what reads places, and config.json into a checkpoint folder."""
    from impasto.training import runs

    runs.export_checkpoint(work, runs.load(recipe), version, out)
    click.echo(f"wrote {out}")
