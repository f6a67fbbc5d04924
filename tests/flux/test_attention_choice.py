"""The attention kernel is the fastest that runs, and stays what it was once decided. Times are given, not taken."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from impasto.flux import attention_choice
from impasto.flux.attention_choice import FILE, Choice, choose, decide
from impasto.flux.pipeline import Pipeline


def times(**given: float) -> object:
    def seconds(name: str) -> float:
        if name not in given:
            raise RuntimeError("no such kernel")
        return given[name]

    return seconds


def test_the_fastest_kernel_that_runs_is_taken() -> None:
    assert decide(times(cudnn=3.0, flash=2.0, efficient=4.0), key="a", folder=None) == Choice("flash")  # type: ignore[arg-type]
    assert decide(times(efficient=4.0), key="a", folder=None) == Choice("efficient")  # type: ignore[arg-type]
    assert decide(times(), key="a", folder=None) is None  # type: ignore[arg-type]


def test_a_choice_is_kept_for_its_machine(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert decide(times(cudnn=1.0, flash=2.0), key="a", folder=folder) == Choice("cudnn")  # type: ignore[arg-type]
    assert decide(times(cudnn=9.0, flash=2.0), key="a", folder=folder) == Choice("cudnn")  # type: ignore[arg-type]
    assert decide(times(cudnn=9.0, flash=2.0), key="b", folder=folder) == Choice("flash")  # type: ignore[arg-type]
    assert decide(times(), key="a", folder=folder) == Choice("cudnn")  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": "warp"}'])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: str) -> None:
    (tmp_path / FILE).write_text(damage, encoding="utf-8")
    assert decide(times(flash=2.0), key="a", folder=tmp_path) == Choice("flash")  # type: ignore[arg-type]
    assert decide(times(), key="a", folder=tmp_path) == Choice("flash")  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_to_costs_the_memory_not_the_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert decide(times(flash=2.0), key="a", folder=tmp_path / "file" / "speed") == Choice("flash")  # type: ignore[arg-type]
    assert "made again" in caplog.text


def test_a_kernel_that_cannot_run_leaves_the_plain_one() -> None:
    q = torch.randn(1, 2, 8, 16)
    with Choice("cudnn").used():
        found = F.scaled_dot_product_attention(q, q, q)
    assert torch.allclose(found, F.scaled_dot_product_attention(q, q, q), atol=1e-6)


def test_a_choice_holds_for_every_thread_and_leaves_the_others_a_fast_kernel() -> None:
    def flags() -> tuple[bool, ...]:
        cuda = torch.backends.cuda
        return (
            cuda.cudnn_sdp_enabled(),
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
        )

    before = flags()
    try:
        Choice("flash").use()
        with ThreadPoolExecutor(1) as pool:
            assert flags() == pool.submit(flags).result() == (False, True, True, True)
        gc.collect()
        assert flags() == (False, True, True, True), "nothing lets go of it"
    finally:
        attention_choice._FOR_EVER.close()
    assert flags() == before


def test_a_cpu_has_nothing_to_choose(pipeline: Pipeline) -> None:
    assert choose(pipeline._transformer, folder=None) is None
