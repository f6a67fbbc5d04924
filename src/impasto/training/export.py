"""From training states to the checkpoint that is shipped: the averaged weights, bf16 safetensors, and config.json. Of a
distilled transformer, what distilling changed (see `flux.distillation`).
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux import distillation, quantise, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.models import IMPASTO_MINI, SIBLINGS, AutoencoderParams, NativeSize, TransformerParams
from impasto.flux.stored import SCALES
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
    return torch.load(state, weights_only=True, map_location="cpu")["average"]


def export(
    *,
    autoencoder: Path,
    transformer: Path,
    base: Path | None = None,
    places: Path,
    folder: Path,
    version: str,
    autoencoder_params: AutoencoderParams,
    transformer_params: TransformerParams,
    name: str = "transformer.safetensors",
    narrow: bool = False,
    native_size: NativeSize | None = None,
    vocabulary: dict[str, Any] | None = None,
) -> None:
    """Write the trained safetensors files, what reads `places`, and config.json into a checkpoint folder that already
    holds the text encoder. `name`: the transformer's file; `base`: the weights whose change it is to state; `narrow`:
    the matrices of its blocks in 8 bits. `native_size`: at which sizes it draws, if not as the table says.

    Every tensor is checked against the module it is for; raises WeightsError with a full report when one does not fit.
    Where the folder gets another transformer, changes of the one before are taken away: they would spoil it.
    """
    decoder, tuned = averaged(autoencoder), averaged(transformer)
    with torch.device("meta"):
        weights.check(Autoencoder(autoencoder_params), decoder, name="autoencoder.safetensors")
        weights.check(Flux(transformer_params), tuned, name=name)
    whole = folder / IMPASTO_MINI.file("transformer")
    before = weights.read(whole) if whole.is_file() else {}
    if autoencoder.suffix == ".safetensors":  # not trained on
        _copy(autoencoder, folder / "autoencoder.safetensors")
    else:
        _write(folder / "autoencoder.safetensors", _halved(decoder))
    if base is None:
        _write(folder / name, _narrowed(tuned) if narrow else _halved(tuned))
    else:
        _write(folder / name, distillation.difference(weights.read(base), tuned))
        _copy(base, whole)
    if not _same(weights.read(whole), before):
        for other in {spec.file("distillation") for spec in (IMPASTO_MINI, *SIBLINGS.values())} - {name}:
            (folder / other).unlink(missing_ok=True)
    _copy(places, folder / PLACES_FILE)
    write_config(
        folder,
        version=version,
        scale_factor=autoencoder_params.scale_factor,
        shift_factor=autoencoder_params.shift_factor,
        native_size=native_size,
        vocabulary=vocabulary,
    )


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.to(torch.bfloat16) for key, tensor in tensors.items()}


def _narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of the blocks in 8 bits with a scale a row, as `flux.stored` reads them; everything else in bf16."""
    stored = _halved(tensors)
    for key, tensor in tensors.items():
        if tensor.ndim == 2 and key.startswith(quantise.BLOCKS):
            stored[key], scales = quantise.rounded(tensor, "int8")
            stored[f"{key.removesuffix('.weight')}{SCALES[0]}"] = scales.flatten()
    return stored


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    stored = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(stored, path, {"license": "Apache-2.0", "source": "trained by impasto train default-model"})
    # safetensors writes for the owner only; a checkpoint that is installed must be readable by all
    path.chmod(0o644)


def _same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    # not the files' sums: safetensors writes its metadata in any order
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _copy(source: Path, target: Path) -> None:
    if not target.is_file() or not source.samefile(target):
        shutil.copyfile(source, target)
