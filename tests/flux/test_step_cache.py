"""Step caching: nothing changes unless asked, a loose threshold leaves work out, and a sample decides for itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from impasto.flux.pipeline import Pipeline, Step
from impasto.flux.step_cache import FEWEST_STEPS, StepCache, Threshold
from impasto.flux.transformer import Flux

STEPS = 10


@pytest.fixture(scope="module")
def shipped() -> Pipeline:
    """Trained weights: how alike two steps are is a question about those."""
    return Pipeline.load("impasto-mini", device="cpu", dtype=torch.float32, threads=1)


def steps(
    pipeline: Pipeline, caching: Threshold | None, *, index: int = 0, count: int = STEPS, cfg: float = 1.0
) -> Iterator[Step]:
    words = pipeline.encode("a red apple", negative=None if cfg == 1 else "a cat")
    return pipeline.denoise(
        words, seed=3, index=index, height=96, width=128, steps=count, cfg=cfg, caching=caching
    )  # fmt: skip


def calls(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that go through the last block from here on."""
    seen: list[int] = []
    block = pipeline._transformer.single_blocks[-1]
    hook = block.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    monkeypatch.setattr(pipeline, "_hook", hook, raising=False)
    return seen


def last(found: Iterator[Step]) -> Tensor:
    *_, step = found
    return step.latents


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_a_threshold_that_no_step_meets_gives_the_bits_of_the_plain_way(shipped: Pipeline) -> None:
    found = list(steps(shipped, Threshold(1e-9)))
    assert not any(step.reused for step in found)
    assert torch.equal(found[-1].latents, last(steps(shipped, None)))


@pytest.mark.parametrize(("cfg", "rows"), [(1.0, 1), (2.0, 2)])
def test_a_reused_step_leaves_out_all_blocks_but_the_first(
    shipped: Pipeline, monkeypatch: pytest.MonkeyPatch, cfg: float, rows: int
) -> None:
    seen = calls(shipped, monkeypatch)
    found = list(steps(shipped, Threshold(0.3), cfg=cfg))
    reused = sum(step.reused for step in found)
    assert 0 < reused < STEPS
    assert seen == [rows] * (STEPS - reused)


def test_the_first_steps_are_whole_and_no_more_than_the_allowed_are_reused_in_a_row(shipped: Pipeline) -> None:
    found = steps(shipped, Threshold(1e9, in_a_row=2, settled=0.3), count=10)
    assert [step.reused for step in found] == [False, False, False, True, True, False, True, True, False, True]


def test_a_tighter_threshold_stays_closer_to_the_exact_picture(shipped: Pipeline) -> None:
    exact = last(steps(shipped, None, count=16))
    tight, loose = (error(last(steps(shipped, Threshold(change), count=16)), exact) for change in (0.15, 0.6))
    assert 0 < tight < loose


def test_interleaved_samples_keep_their_own_caches(shipped: Pipeline) -> None:
    threshold = Threshold(0.15)
    alone = [[step.reused for step in steps(shipped, threshold, index=i)] for i in range(2)]
    wanted = [last(steps(shipped, threshold, index=i)) for i in range(2)]
    pairs = list(zip(*(steps(shipped, threshold, index=i) for i in range(2)), strict=True))
    assert [[pair[i].reused for pair in pairs] for i in range(2)] == alone
    assert all(torch.equal(pairs[-1][i].latents, wanted[i]) for i in range(2))


def test_few_steps_are_all_drawn(shipped: Pipeline) -> None:
    assert not any(step.reused for step in steps(shipped, Threshold(1e9), count=FEWEST_STEPS - 1))
    assert any(step.reused for step in steps(shipped, Threshold(1e9), count=FEWEST_STEPS))


def test_passes_that_run_one_after_the_other_for_want_of_memory_decide_each_for_itself(
    shipped: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = shipped._transformer.rest
    full = [True]

    def short_of_memory(img: Tensor, *args: object) -> Tensor:
        if len(img) == 2 and full:
            full.clear()
            raise MemoryError
        return rest(img, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(shipped._transformer, "rest", short_of_memory)
    seen = calls(shipped, monkeypatch)
    whole = StepCache.velocity
    words: dict[StepCache, Tensor] = {}

    def watched(cache: StepCache, model: Flux, img: Tensor, txt: Tensor, *args: Any, **named: Any) -> Tensor:
        if len(img) == 1:
            assert torch.equal(words.setdefault(cache, txt), txt), "a row was judged by what the other one did"
        return whole(cache, model, img, txt, *args, **named)

    monkeypatch.setattr(StepCache, "velocity", watched)
    found = list(steps(shipped, Threshold(0.6), cfg=2.0))
    assert seen
    assert set(seen) == {1}
    assert len(words) == 2
    assert any(step.reused for step in found)
    assert torch.isfinite(found[-1].latents).all()


@pytest.mark.parametrize(("change", "in_a_row"), [(0.0, 3), (-1.0, 3), (0.1, 0)])
def test_a_threshold_without_meaning_is_refused(change: float, in_a_row: int) -> None:
    with pytest.raises(ValueError, match="step cache"):
        Threshold(change, in_a_row)
