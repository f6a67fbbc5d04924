"""A checkpoint's transformer → a model whose weights are where and what a `Residency` says.

The parts of that are elsewhere: which weights are in 8 bits (`quantise`), which of them visit the device (`offload`),
how tensors get out of files (`stored`, `weights`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from impasto.flux import offload, quantise, weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.residency import Residency
from impasto.flux.stored import Tensors
from impasto.flux.transformer import Flux

log = logging.getLogger("impasto.flux")

HOST = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Placement(weights.Target):
    """A target that leaves some keys on the host: page-locked copies, or `mapped`, the file's own bytes if they fit."""

    away: frozenset[str] = field(default_factory=frozenset[str])
    mapped: bool = False

    def place(self, key: str, source: Tensors) -> Tensor:
        if key not in self.away:
            return weights.Target.place(self, key, source)
        if self.mapped:
            return weights.Target(HOST, self.dtype).place(key, source)
        tensor = source[key]
        copy = tensor.to(device=HOST, dtype=tensor.dtype if source.keeps(key) else self.dtype, copy=True)
        source.done(key)
        if self.device.type == "cuda":
            page_lock(copy)
        return copy


def load_transformer(
    checkpoint: Checkpoint,
    target: weights.Target,
    residency: Residency,
    *,
    copies: offload.Copies | None = None,
) -> Flux:
    """The transformer as `residency` has it; `copies`: how weights that visit travel. Raises WeightsError."""
    params, name = checkpoint.spec.transformer, str(checkpoint.path("transformer"))
    tensors = weights.transformer_tensors(checkpoint)
    narrow = quantise.layers(tensors, residency.kept)
    with torch.device("meta"):
        away = offload.away(Flux(params), residency)
    source = quantise.Narrowed(tensors, narrow, residency.kept, target.device) if narrow else tensors
    placement = Placement(target.device, target.dtype, away, residency.mapped)
    model = weights.build(
        lambda: quantise.narrowed(Flux(params), narrow, residency.kept), source, name=name, target=placement
    )
    quantise.settle(model)
    offload.install(model, residency, target.device, copies=copies)
    return model


def page_lock(tensor: Tensor) -> None:
    """Keeps the tensor's memory where it is for the life of the process, so that the GPU fetches it by itself. Where
    the system does not allow that much of it, copies wait for the host: slower, and said once a tensor at most.

    Not `Tensor.pin_memory`: its allocator rounds each size up to a power of two, half as much again for FLUX.1.
    """
    cudart: Any = torch.cuda.cudart()
    status = int(cudart.cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0))
    if status:
        log.warning("%d bytes of weights could not be page-locked (CUDA error %d)", tensor.nbytes, status)
