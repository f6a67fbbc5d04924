"""From training states to the checkpoint that is shipped: the averaged weights, bf16 safetensors, and config.json."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux import weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.models import AutoencoderParams, TransformerParams
from impasto.flux.text import PLACES_FILE
from impasto.flux.transformer import Flux
from impasto.training.assets import write_config


def averaged(state: Path) -> dict[str, Tensor]:
    """The moving average out of a training state, or the tensors of a checkpoint's file, for a part that was not
    trained on; raises WeightsError when there is none.
    """
    if state.suffix == ".safetensors":
        # copies: the file may be the one that is written next
        return {key: tensor.clone() for key, tensor in weights.read(state).items()}
    if not state.is_file():
        raise WeightsError(f"{state}: no such training state. Train first.")
    return torch.load(state, weights_only=True)["average"]


def export(
    *,
    autoencoder: Path,
    transformer: Path,
    places: Path,
    folder: Path,
    version: str,
    autoencoder_params: AutoencoderParams,
    transformer_params: TransformerParams,
    name: str = "transformer.safetensors",
    vocabulary: dict[str, Any] | None = None,
) -> None:
    """Write both safetensors files, what reads `places`, and config.json into a checkpoint folder that already holds
    the text encoder. `name`: the transformer's file.

    Every tensor is checked against the module it is for; raises WeightsError with a full report when one does not fit.
    """
    parts = {
        "autoencoder.safetensors": (averaged(autoencoder), lambda: Autoencoder(autoencoder_params)),
        name: (averaged(transformer), lambda: Flux(transformer_params)),
    }
    for part, (tensors, build) in parts.items():
        with torch.device("meta"):
            weights.check(build(), tensors, name=part)
    for part, (tensors, _) in parts.items():
        stored = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in tensors.items()}
        save_file(stored, folder / part, {"license": "Apache-2.0", "source": "trained by impasto train default-model"})
        # safetensors writes for the owner only; a checkpoint that is installed must be readable by all
        (folder / part).chmod(0o644)
    if not (folder / PLACES_FILE).is_file() or not places.samefile(folder / PLACES_FILE):
        shutil.copyfile(places, folder / PLACES_FILE)
    write_config(
        folder,
        version=version,
        scale_factor=autoencoder_params.scale_factor,
        shift_factor=autoencoder_params.shift_factor,
        vocabulary=vocabulary,
    )
