"""Checkpoints of the published layouts, made by diffusers and transformers from small random configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SiglipVisionModel
from twins import (
    AUTOENCODER,
    CLIP,
    SIGLIP,
    T5,
    Made,
    diffusers_autoencoder,
    diffusers_transformer,
    made,
    randomised,
    redux_parts,
    text_encoders,
    transformer_params,
)

__all__ = [
    "AUTOENCODER", "CLIP", "SIGLIP", "T5", "Made", "cast", "clip_published", "copied", "diffusers_autoencoder",
    "diffusers_transformer", "made", "randomised", "redux_parts", "save", "t5_published", "text_encoders",
    "transformer_params", "write_diffusers", "write_redux", "write_single",
]  # fmt: skip

PIPELINES = {"mask": "FluxFillPipeline", "canny": "FluxControlPipeline", "depth": "FluxControlPipeline"}
PIPELINES |= {"reference": "FluxKontextPipeline", "none": "FluxPipeline"}


def write_diffusers(folder: Path, parts: Made, *, dtype: torch.dtype = torch.float32, shard: str = "2MB") -> Path:
    """A folder as `save_pretrained` writes it, the transformer in shards, without tokenizers."""
    copies: dict[str, Any] = {"transformer": parts.transformer, "vae": parts.autoencoder}
    copies |= {"text_encoder": parts.clip, "text_encoder_2": parts.t5}
    for name, module in copies.items():
        size = shard if name == "transformer" else "1GB"
        cast(module, dtype, lambda it, name=name, size=size: it.save_pretrained(folder / name, max_shard_size=size))
    index = {"_class_name": PIPELINES[parts.spec.sight]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def write_single(folder: Path, parts: Made, *, name: str, dtype: torch.dtype = torch.float32) -> Path:
    """BFL's layout: transformer and `ae.safetensors`, and ComfyUI's files for the text encoders beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / name, parts.bfl(), dtype)
    save(folder / "ae.safetensors", parts.bfl_autoencoder(), dtype)
    save(folder / "clip_l.safetensors", clip_published(parts.clip.state_dict()), dtype)
    save(folder / "t5xxl_fp16.safetensors", t5_published(parts.t5.state_dict()), dtype)
    return folder / name


def write_redux(folder: Path, encoder: SiglipVisionModel, projector: ReduxImageEncoder) -> None:
    """Redux as its repository publishes it."""
    encoder.save_pretrained(folder / "image_encoder")
    save(folder / "flux1-redux-dev.safetensors", projector.state_dict(), torch.float32)


def clip_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published files always name the tower, whatever this release of transformers does."""
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}


def t5_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != "encoder.embed_tokens.weight"}


def save(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    save_file({key: tensor.to(dtype).contiguous().clone() for key, tensor in tensors.items()}, path)


def cast(module: nn.Module, dtype: torch.dtype, use: Callable[[Any], None]) -> None:
    """`use(module)` in that dtype; the module is as before afterwards."""
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    use(module.to(dtype))
    module.to(torch.float32).load_state_dict(before)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
