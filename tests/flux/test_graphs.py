"""Recorded steps. On a CPU a recording is emulated: it sees its own inputs only, and its result is overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from impasto.flux import graphs
from impasto.flux.graphs import Graphs
from impasto.flux.means import PLAIN, Means
from impasto.flux.pipeline import Pipeline, Step
from impasto.flux.step_cache import Threshold


class Emulated:
    """Does what a CUDA graph does to its user: runs the recorded work again on fixed memory, into fixed memory."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Tensor]) -> graphs.Replay:
        self.recorded += 1
        out = run()

        def replay() -> Tensor:
            self.replayed += 1
            return out.copy_(run())

        return replay


@pytest.fixture
def emulated() -> Emulated:
    return Emulated()


@pytest.fixture
def recording(pipeline: Pipeline, emulated: Emulated) -> Iterator[Pipeline]:
    pipeline.means = Means(graphs=Graphs(pipeline._transformer, emulated, kept=2))
    yield pipeline
    pipeline.means = PLAIN


def steps(pipeline: Pipeline, *, index: int = 0, height: int = 96, width: int = 128, **more: object) -> Iterator[Step]:
    words = pipeline.encode(("a fox", "a blue boat")[index % 2])
    arguments = {"seed": 3, "index": index, "steps": 3, "guidance": 3.5, "height": height, "width": width, **more}
    return pipeline.denoise(words, **arguments)  # type: ignore[arg-type]


def last(found: Iterator[Step]) -> Tensor:
    *_, step = found
    return step.latents


def test_interleaved_samples_share_a_recording_and_get_the_bits_of_the_plain_way(
    pipeline: Pipeline, emulated: Emulated
) -> None:
    wanted = [last(steps(pipeline, index=i)) for i in range(2)]
    pipeline.means = Means(graphs=Graphs(pipeline._transformer, emulated))
    try:
        found = list(zip(*(steps(pipeline, index=i) for i in range(2)), strict=True))[-1]
    finally:
        pipeline.means = PLAIN
    assert all(torch.equal(step.latents, exact) for step, exact in zip(found, wanted, strict=True))
    assert (emulated.recorded, emulated.replayed) == (1, 6)


def test_shapes_have_recordings_of_their_own_and_the_least_recently_used_goes(
    recording: Pipeline, emulated: Emulated
) -> None:
    sizes = [(96, 128), (128, 128), (96, 128), (128, 96), (96, 128), (128, 128)]
    recorded = []
    for height, width in sizes:
        last(steps(recording, height=height, width=width))
        recorded.append(emulated.recorded)
    assert recorded == [1, 2, 2, 2, 2, 2]  # 128x96 has as many tokens as 96x128
    last(steps(recording, height=64, width=128))
    last(steps(recording, height=128, width=128))
    assert emulated.recorded == 3
    last(steps(recording, height=96, width=128))
    assert emulated.recorded == 4


def test_one_pass_and_two_are_different_shapes(recording: Pipeline, emulated: Emulated) -> None:
    last(steps(recording))
    last(steps(recording, guidance=1.0))
    assert emulated.recorded == 2


def test_step_caching_goes_the_plain_way(recording: Pipeline, emulated: Emulated) -> None:
    assert any(step.reused for step in steps(recording, steps=10, caching=Threshold(1e9)))
    assert emulated.replayed == 0


def test_loras_go_the_plain_way(recording: Pipeline, emulated: Emulated) -> None:
    from impasto.flux.linear import Side, Up

    layer = recording._transformer.single_blocks[0].linear2
    up = Up(slice(0, layer.out_features), slice(0, 2), torch.ones(layer.out_features, 2))
    plain = last(steps(recording))
    emulated.replayed = 0
    side = Side(torch.ones(2, layer.in_features), (up,))
    assert not torch.equal(last(steps(recording, sides={"single_blocks.0.linear2": side})), plain)
    assert emulated.replayed == 0


def test_a_cpu_records_nothing() -> None:
    assert graphs.obstacle(torch.device("cpu")) == "CUDA graphs need a GPU"
