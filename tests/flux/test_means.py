"""What a machine cannot do is told once, when the model is loaded, and the plain way is taken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from impasto.flux.means import PLAIN, Means, Wanted
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux

from .test_compiled import TINY, drawn


def test_a_cpu_without_a_compiler_says_so_of_each_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = Flux(TINY).eval().requires_grad_(False)
    wanted = drawn(model, 64)
    with caplog.at_level(logging.WARNING, "impasto.flux"):
        found = Means.of(model, IMPASTO_MINI, Wanted(compile=True, graphs=True, fp8=True, folder=tmp_path / "speed"))
    assert found == PLAIN
    assert [name for name in ("model.compile", "model.cuda_graphs", "model.fp8") if name not in caplog.text] == []
    assert torch.equal(drawn(model, 64), wanted)


def test_nothing_wanted_is_nothing_said(caplog: pytest.LogCaptureFixture) -> None:
    assert Means.of(Flux(TINY), IMPASTO_MINI, Wanted()) == PLAIN
    assert caplog.records == []
