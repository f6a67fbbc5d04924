"""CUDA streams for the threads beside the steps, so that what they compute does not queue behind the steps.

`own` gives the calling thread a stream of its own; when its block ends, the work in it is done, and what is handed out
may be used by the steps: their stream is recorded on every tensor, so that its memory is not used again too early.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch


class Streams:
    """`device` None, or one that is no GPU: blocks run as if they were not there."""

    def __init__(self, device: torch.device | None) -> None:
        self._device = device if device is not None and device.type == "cuda" else None
        self._threads = threading.local()

    @contextmanager
    def own(self) -> Generator[None]:
        if self._device is None:
            yield
            return
        if not hasattr(self._threads, "stream"):
            self._threads.stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._threads.stream):
            yield
        self._threads.stream.synchronize()

    def hand_out(self, value: object) -> None:
        """`value`, made in a block of `own`, will be read by the steps."""
        if self._device is not None:
            steps = torch.cuda.default_stream(self._device)
            for tensor in tensors_of(value):
                if tensor.is_cuda:
                    tensor.record_stream(steps)


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in dataclasses, mappings and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_of(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_of(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from tensors_of(getattr(value, each.name))
