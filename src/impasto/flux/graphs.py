"""CUDA graphs: all launches of a step recorded once for a shape, then replayed with one.

At small sizes the host needs longer to launch a step than the GPU to do it; a graph takes that away and changes no bit.
A recording reads and writes fixed memory, so inputs are copied there and the result out of it, and every sample of that
shape, whoever asked for it, goes through the same recording. Recordings cost memory: the least recently used go first.

In: a model and a `Record`; on a GPU that is `record`. Out: a `Graphs`, whose `velocity` stands for `Flux.velocity`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import torch
from torch import Tensor

from impasto.flux.transformer import Flux, Modulations

log = logging.getLogger("impasto.flux")

KEPT = 4
"""Shapes: a size for one pass, the same for two, and two more."""

Replay: TypeAlias = Callable[[], Tensor]
"""Runs what was recorded on what its inputs hold now; the result is valid until the next run."""

Record: TypeAlias = Callable[[Callable[[], Tensor]], Replay]


def obstacle(device: torch.device) -> str | None:
    """Why nothing can be recorded on `device`; None: it can."""
    return None if device.type == "cuda" else "CUDA graphs need a GPU"


def record(run: Callable[[], Tensor]) -> Replay:
    """`run` as a CUDA graph. It is run twice before, as libraries set themselves up in their first calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads read prompts and decode meanwhile, which must not break the recording
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = run()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


class Graphs:
    """Recordings of one model by shape."""

    def __init__(self, model: Flux, record: Record = record, *, kept: int = KEPT) -> None:
        self._model = model
        self._record = record
        self._kept = kept
        self._recorded: OrderedDict[tuple[object, ...], _Recorded] = OrderedDict()

    def velocity(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations, *, variant: object = None) -> Tensor:
        """As `Flux.velocity`. `variant`: what else than shapes decides which kernels run, such as 8-bit linears."""
        key = (img.shape, txt.shape, pe.shape, variant)
        recorded = self._recorded.get(key)
        if recorded is None:
            while len(self._recorded) >= self._kept:
                self._recorded.popitem(last=False)  # before the new one needs its memory
            log.info("Recording a step of %d image and %d text tokens", img.shape[1], txt.shape[1])
            recorded = self._recorded[key] = _Recorded(self._model, self._record, img, txt, pe, mods)
        self._recorded.move_to_end(key)
        return recorded(img, txt, pe, mods)

    def clear(self) -> None:
        """Lets all recordings go, and their memory."""
        self._recorded.clear()


class _Recorded:
    """One recording with the memory it reads: a copy of each input."""

    def __init__(self, model: Flux, record: Record, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations) -> None:
        self._img, self._txt, self._pe = img.clone(), txt.clone(), pe.clone()
        self._mods = Modulations(
            double=tuple((a.clone(), b.clone()) for a, b in mods.double),
            single=tuple(mod.clone() for mod in mods.single),
            final=mods.final.clone(),
        )
        self._replay = record(lambda: model.velocity(self._img, self._txt, self._pe, self._mods))

    def __call__(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations) -> Tensor:
        places = [self._img, self._txt, self._pe, *_tensors(self._mods)]
        copy = cast("Callable[..., None]", torch._foreach_copy_)  # pyright: ignore - one launch; torch.optim's own
        copy(places, [img, txt, pe, *_tensors(mods)])
        return self._replay().clone()


def _tensors(mods: Modulations) -> Iterator[Tensor]:
    for pair in mods.double:
        yield from pair
    yield from mods.single
    yield mods.final
