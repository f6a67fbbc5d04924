"""Weights on disk → modules.

What comes in: a checkpoint (see `checkpoint`). What goes out: modules with exactly the weights found there, in either
dialect of keys (see `keys`). Only safetensors are read: a pickle can run code. A module is built on the meta device, so
it takes no memory until its tensors arrive; each goes from the mapped file to its place on its own (see `stored`), or
stays where it is: a CPU that computes in the file's dtype reads the weights out of the mapped file.
Loading is strict, and what does not fit is reported whole, not at the first key.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from impasto.errors import WeightsError
from impasto.flux import distillation, keys, kinds
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.stored import InMemory, Tensors, open_stored
from impasto.flux.transformer import Flux
from impasto.flux.upscale import Upscaler

M = TypeVar("M", bound=nn.Module)

_LISTED = 8
"""Keys that a report names of each kind; the rest is counted."""


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file or a folder of shards, on the CPU. Raises WeightsError."""
    return {key: tensor.clone() for key, tensor in open_stored(path).items()}


@dataclass(frozen=True, slots=True)
class Target:
    """Where weights go, and what they become on the way."""

    device: torch.device
    dtype: torch.dtype

    def place(self, key: str, source: Tensors) -> Tensor:
        """The tensor there, as a copy; on a CPU the file's own bytes, where they are what is wanted already."""
        tensor = source[key]
        dtype = tensor.dtype if source.keeps(key) else self.dtype
        if self.device.type == "cpu" and tensor.dtype == dtype and source.is_mapped(key):
            return tensor
        placed = tensor.to(device=self.device, dtype=dtype, copy=True)
        source.done(key)
        return placed


CPU = Target(torch.device("cpu"), torch.float32)


def transformer_tensors(checkpoint: Checkpoint) -> Tensors:
    """The stored transformer, in BFL's dialect, as it was distilled if it was."""
    tensors = keys.Converted(checkpoint.tensors("transformer"), keys.transformer_rows(checkpoint.spec.transformer))
    change = checkpoint.find("distillation")
    return tensors if change is None else distillation.read(tensors, change)


def autoencoder_tensors(checkpoint: Checkpoint) -> Tensors:
    """The stored autoencoder, in BFL's dialect."""
    return keys.Converted(checkpoint.tensors("autoencoder"), keys.autoencoder_rows(checkpoint.spec.autoencoder))


def load_transformer(checkpoint: Checkpoint, target: Target) -> Flux:
    """The checkpoint's transformer, from either dialect of keys. Raises WeightsError."""
    name, params = str(checkpoint.path("transformer")), checkpoint.spec.transformer
    return build(lambda: Flux(params), transformer_tensors(checkpoint), name=name, target=target)


def load_autoencoder(checkpoint: Checkpoint, target: Target) -> Autoencoder:
    """The checkpoint's autoencoder, from either dialect of keys, channels_last. Raises WeightsError."""
    name, params = str(checkpoint.path("autoencoder")), checkpoint.spec.autoencoder
    tensors = autoencoder_tensors(checkpoint)
    return build(lambda: Autoencoder(params), tensors, name=name, target=target).channels_last()


def load_upscaler(checkpoint: Checkpoint, target: Target) -> Upscaler:
    """The upscaler that the checkpoint brings along. Raises WeightsError."""
    tensors = checkpoint.tensors("upscaler")
    built = build(Upscaler, tensors, name=str(checkpoint.path("upscaler")), target=target)
    return built.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stub


def build(
    module: Callable[[], M],
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    target: Target = CPU,
    tied: Mapping[str, str] | None = None,
) -> M:
    """The module that `module()` makes, filled with `tensors`, in evaluation mode, without gradients.

    `name` names the weights in errors. `tied`: keys of the module that are another key's tensor. Nothing is copied
    before everything fits. Raises WeightsError with a full report when a key is missing, unexpected or of another
    shape.
    """
    with on_meta():
        built = module()
    tied = tied or {}
    source = tensors if isinstance(tensors, Tensors) else InMemory(tensors)
    check(built, source, name=name, tied=tied)
    placed: dict[str, Tensor] = {}
    for key in source:
        placed[key] = target.place(key, source)
    placed |= {key: placed[other] for key, other in tied.items()}
    built.load_state_dict(placed, strict=True, assign=True)
    return built.requires_grad_(False).eval()


@contextmanager
def on_meta() -> Generator[None]:
    """Modules made in it have shapes and take no memory."""
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Draws no first values for tensors that have no memory. On the meta device that would import torch's compiler, a
    third of the time that the embedded model takes to load.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def check(
    module: nn.Module, tensors: Mapping[str, Tensor], *, name: str, tied: Mapping[str, str] | None = None
) -> None:
    """Raises WeightsError unless `tensors` has exactly the keys and shapes of `module`, but for the `tied` ones. Reads
    no tensor that lies in a file.
    """
    source = tensors if isinstance(tensors, Tensors) else InMemory(tensors)
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items() if key not in (tied or {})}
    found = {key: source.shape(key) for key in source}
    missing = [f"{key} {list(shape)}" for key, shape in wanted.items() if key not in found]
    unexpected = [f"{key} {list(shape)}" for key, shape in found.items() if key not in wanted]
    misshapen = [
        f"{key} is {list(found[key])}, must be {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    if missing or unexpected or misshapen:
        faults = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        report = "".join(f"\n  {kind} ({len(keys)}): {_some(keys)}" for kind, keys in faults if keys)
        packed = kinds.of_names(key for key in found if key not in wanted)
        why = "" if packed is None else f"\n  It is {packed}."
        raise WeightsError(f"{name}: {len(wanted)} tensors wanted, {len(found)} found.{report}{why}")


def _some(keys: list[str]) -> str:
    listed = ", ".join(keys[:_LISTED])
    return listed if len(keys) <= _LISTED else f"{listed}, and {len(keys) - _LISTED} more"
