"""What a step must not do: make the host wait for the device. And that the autoencoder keeps its layout throughout.

On a CPU nothing waits, so the calls that would are looked for where torch dispatches them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from impasto.flux.linear import Side, Up
from impasto.flux.pipeline import Pipeline, Step
from impasto.flux.step_cache import Threshold

aten = torch.ops.aten
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default}


class NoWaiting(TorchDispatchMode):
    """Refuses what needs a value of the device on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in WAITING, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def steps(pipeline: Pipeline, **more: Any) -> Iterator[Step]:
    words = pipeline.encode("a red fox")
    return pipeline.denoise(words, seed=1, index=0, height=64, width=96, steps=3, guidance=3.5, **more)


def side(pipeline: Pipeline) -> dict[str, Side]:
    layer = pipeline._transformer.single_blocks[0].linear2
    up = Up(slice(0, layer.out_features), slice(0, 2), torch.ones(layer.out_features, 2))
    return {"single_blocks.0.linear2": Side(torch.ones(2, layer.in_features), (up,))}


@pytest.mark.parametrize("lora", [False, True])
def test_no_step_after_the_first_waits_for_the_device(pipeline: Pipeline, lora: bool) -> None:
    running = steps(pipeline, sides=side(pipeline) if lora else None)
    next(running)  # what is computed once a request may copy from the host
    with NoWaiting():
        assert len(list(running)) == 2


def test_the_watch_sees_what_waits(pipeline: Pipeline) -> None:
    words = pipeline.encode("a red fox")
    arguments = {"seed": 1, "index": 0, "height": 64, "width": 96, "steps": 10, "guidance": 3.5}
    running = pipeline.denoise(words, caching=Threshold(0.1), **arguments)  # type: ignore[arg-type]
    next(running)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():  # a step cache has to know
        list(running)


def test_every_convolution_of_the_autoencoder_is_given_its_own_layout(pipeline: Pipeline) -> None:
    seen: list[bool] = []

    def look(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen.append(args[0].is_contiguous(memory_format=torch.channels_last))

    convolutions = [m for m in pipeline._autoencoder.modules() if isinstance(m, nn.Conv2d)]
    hooks = [m.register_forward_pre_hook(look) for m in convolutions]
    try:
        pixels = pipeline._autoencoder.decode(torch.randn(1, 16, 8, 12))
        pipeline._autoencoder.encode(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(seen) == len(convolutions)
    assert all(seen)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
