"""A checkpoint's transformer → a model whose weights are where and what a `Residency` says.

The parts of that are elsewhere: which weights are in 8 bits (`quantise`), which of them visit the device (`offload`),
how tensors get out of files (`stored`, `weights`).
"""

from __future__ import annotations

import logging
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from impasto.flux import offload, quantise, weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.models import TransformerParams
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
        dtype = tensor.dtype if source.keeps(key) else self.dtype
        copy = page_locked(tensor, dtype) if self.device.type == "cuda" else tensor.to(HOST, dtype, copy=True)
        source.done(key)
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
    return arranged(tensors, params, target, residency, name=name, copies=copies)


def arranged(
    tensors: Tensors,
    params: TransformerParams,
    target: weights.Target,
    residency: Residency,
    *,
    name: str,
    copies: offload.Copies | None = None,
) -> Flux:
    """The same of any tensors in BFL's dialect; `name` names them in errors."""
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


def page_locked(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A copy in memory that stays where it is until the copy is gone, so that the GPU fetches it by itself. Where the
    system does not allow that much of it, copies wait for the host: slower, and said once a tensor at most.

    Not `Tensor.pin_memory`: its allocator rounds each size up to a power of two, half as much again for FLUX.1.
    """
    dtype = dtype or tensor.dtype
    memory = np.empty(tensor.numel() * dtype.itemsize, np.uint8)
    cudart: Any = torch.cuda.cudart()
    status = int(cudart.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
    if status:
        log.warning("%d bytes of weights could not be page-locked (CUDA error %d)", memory.nbytes, status)
        _forget_error()
    else:
        # memory that is freed while CUDA holds it locked cannot be locked by whom it is given to next
        weakref.finalize(memory, cudart.cudaHostUnregister, memory.ctypes.data)
    copy = torch.from_numpy(memory).view(dtype).reshape(tensor.shape)
    return copy.copy_(tensor)


def _forget_error() -> None:
    """CUDA keeps the last error for whoever launches a kernel next: let that be this one."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")
