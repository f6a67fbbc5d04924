"""Whether a checkpoint is whole, asked without loading it: every part's keys and shapes, on the meta device.

In: a checkpoint. Out: what was found, or a WeightsError with the same report that loading would give. Reads the headers
of the files only, so 34 GB take about a second; sums, which read everything, are a question of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from impasto.flux import redux, shapes, t5clip, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import Checkpoint, locate, siblings
from impasto.flux.checkpoint import redux as redux_of
from impasto.flux.encoders import T5, Clip
from impasto.flux.models import Role
from impasto.flux.stored import Tensors
from impasto.flux.transformer import Flux


@dataclass(frozen=True, slots=True)
class Part:
    """One network of a checkpoint: where it lies, its parameters, its bytes in the file."""

    role: Role
    path: Path
    parameters: int
    size: int


def dry_load(checkpoint: Checkpoint) -> tuple[Part, ...]:
    """All that loading checks, without loading. Raises ModelUnavailable or WeightsError at the first part that is not
    right.
    """
    parts = [_transformer(checkpoint), _autoencoder(checkpoint)]
    if checkpoint.spec.text_encoder == "t5+clip":
        parts += [_clip(checkpoint), _t5(checkpoint)]
        if (with_redux := redux_of(checkpoint)) is not None:
            parts += _redux(with_redux)
    return tuple(parts)


def verify(model: str | Path, *, models: Path | None = None) -> str:
    """One sentence for `impasto doctor`. Embedded models are compared with their sums, others loaded dry."""
    checkpoint = locate(model, models=models)
    spec = checkpoint.spec
    if spec.embedded:
        size = checkpoint.verify() + sum(each.verify("distillation") for each in siblings(checkpoint))
        return f"{spec.name} {spec.version}: {len(checkpoint.sums)} files, {size / 1e6:.0f} MB, checked by SHA-256"
    parts = dry_load(checkpoint)
    roles = ", ".join(part.role for part in parts)
    return f"{spec.name} in {checkpoint.folder}: {sum(part.size for part in parts) / 1e9:.1f} GB ({roles}), complete"


def part(
    role: Role, checkpoint: Checkpoint, module: nn.Module, tensors: Tensors, *, tied: Mapping[str, str] | None = None
) -> Part:
    """`module`, made on the meta device, against what is stored. Raises WeightsError."""
    path = checkpoint.path(role)
    weights.check(module, tensors, name=str(path), tied=tied)
    parameters = sum(math.prod(tensors.shape(key)) for key in tensors)
    return Part(role, path, parameters, sum(tensors.size(key) for key in tensors))


def _transformer(checkpoint: Checkpoint) -> Part:
    with weights.on_meta():
        module = Flux(checkpoint.spec.transformer)
    return part("transformer", checkpoint, module, weights.transformer_tensors(checkpoint))


def _autoencoder(checkpoint: Checkpoint) -> Part:
    with weights.on_meta():
        module = Autoencoder(checkpoint.spec.autoencoder)
    return part("autoencoder", checkpoint, module, weights.autoencoder_tensors(checkpoint))


def _clip(checkpoint: Checkpoint) -> Part:
    with weights.on_meta():
        module = Clip(t5clip.clip_params(checkpoint))
    return part("clip", checkpoint, module, t5clip.clip_tensors(checkpoint))


def _t5(checkpoint: Checkpoint) -> Part:
    tensors = t5clip.t5_tensors(checkpoint)
    with weights.on_meta():
        module = T5(shapes.t5(tensors))
    return part("t5", checkpoint, module, tensors, tied=t5clip.TIED)


def _redux(checkpoint: Checkpoint) -> list[Part]:
    params = redux.params_of(checkpoint)
    with weights.on_meta():
        encoder, projector = redux.new_encoder(params), redux.Projector(params)
    return [
        part("image_encoder", checkpoint, encoder, redux.encoder_tensors(checkpoint)),
        part("redux", checkpoint, projector, checkpoint.tensors("redux")),
    ]
