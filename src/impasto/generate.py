"""`impasto generate`: the server's own way from words to files, without the server. Same input rules, same bytes."""

import asyncio
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from impasto import quiet, telemetry, terminal
from impasto.endpoints.base import WantedLora
from impasto.endpoints.fields import noise_seed
from impasto.endpoints.flux_lora import LORA
from impasto.endpoints.flux_pro import FLUX_PRO
from impasto.endpoints.validation import validate
from impasto.engine.drawing import Finisher, draw
from impasto.engine.job import LoraInput
from impasto.engine.loading import load_pipeline
from impasto.engine.pipeline import Step
from impasto.engine.safety import Safety
from impasto.errors import ConfigError
from impasto.files.images import encode
from impasto.fleet.loras import LoraFiles
from impasto.plain import printable
from impasto.settings import Settings

FORMATS = {".jpeg": "jpeg", ".jpg": "jpeg", ".png": "png"}


def generate_files(
    settings: Settings,
    *,
    prompt: str,
    output: Path,
    size: str,
    steps: int,
    seed: int | None,
    guidance: float,
    num_images: int,
    preview: bool = False,
    loras: Sequence[str] = (),
) -> list[Path]:
    """Draw and write; → the files written. With several pictures `-2`, `-3`… goes before the suffix.

    `preview`: show them on standard error, too, as the terminal can. `loras`: each a file, a URL or a name of the hub,
    with `:SCALE` behind it or not.

    Raises ModelError with the wire's items for values out of bounds, ConfigError for a file that cannot be written.
    """
    targets = _targets(output, num_images)
    drawn_seed = secrets.randbits(32) if seed is None else seed
    endpoint = LORA if loras else FLUX_PRO
    wanted = {"loras": [_lora(each) for each in loras]} if loras else {}
    input_ = validate(
        endpoint,
        {
            **wanted,
            "prompt": prompt,
            "image_size": _size(size),
            "num_inference_steps": steps,
            "seed": drawn_seed,
            "guidance_scale": guidance,
            "num_images": num_images,
            "output_format": FORMATS[output.suffix.lower()],
        },
    )
    job = endpoint.to_job(input_, request_id="generate", seed=drawn_seed, model=settings.model.name)
    job = replace(job, seed=noise_seed(job.seed))
    if endpoint.loras is not None:
        job = replace(job, loras=_bring(endpoint.loras(input_), settings))
    telemetry.configure("warning", plain=True)
    quiet.keep_caches_in(settings.speed_folder)
    quiet.stay_offline()
    pipeline = load_pipeline(settings.loading)
    finisher = Finisher(Safety.load(settings.safety), encode)
    with click.progressbar(
        length=job.steps * job.num_images, label=f"{job.width}x{job.height}", file=sys.stderr
    ) as bar:

        def on_step(_index: int, _step: Step) -> None:
            bar.update(1)

        result = draw(job, pipeline=pipeline, finisher=finisher, on_step=on_step)
    for notice in result.notices:
        terminal.say(f"warning: {printable(notice.message)}", err=True)
    for target, picture in zip(targets, result.pictures, strict=True):
        _write(target, picture.data)
        if preview:
            click.echo("\n".join(terminal.lines(picture.data)), err=True)
        note = ", flagged by the safety classifier: black" if picture.nsfw else ""
        click.echo(f"{target}  {picture.width}x{picture.height}, seed {drawn_seed}{note}")
    return targets


def _lora(text: str) -> dict[str, Any]:
    """PATH_OR_URL[:SCALE] → the wire's object."""
    path, _, scale = text.rpartition(":")
    try:
        return {"path": path, "scale": float(scale)} if path else {"path": text}
    except ValueError:
        return {"path": text}


def _bring(wanted: Sequence[WantedLora], settings: Settings) -> tuple[LoraInput, ...]:
    """The LoRAs as files: those of this machine as they lie, others as the server fetches them. Raises ModelError."""
    files = LoraFiles(settings=settings, own=_no_file_of_a_server)
    return asyncio.run(files.bring(wanted, base_url="", reader="", any_file=True))


def _no_file_of_a_server(url: str, base_url: str, *, field: str, reader: str) -> Path | None:
    return None


def _targets(output: Path, count: int) -> list[Path]:
    if output.suffix.lower() not in FORMATS:
        raise ConfigError(f"--output {output}: the name must end in {', '.join(FORMATS)}.")
    folder = output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--output {output}: {folder.resolve()} is not a folder that can be written to.")
    targets = [output, *(output.with_stem(f"{output.stem}-{i}") for i in range(2, count + 1))]
    for target in targets:
        if target.is_dir():
            raise ConfigError(f"--output {target}: is a folder. Name a file.")
    return targets


def _size(text: str) -> Any:
    """ "1024x768" → the wire's object; anything else is taken for a preset and judged by the schema."""
    match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else text


def _write(target: Path, data: bytes) -> None:
    """Whole or not at all: an interrupted run leaves no half picture under the name."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=target.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
