"""Compiled blocks: the same numbers, kept for the next process, and the plain way where there is no compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impasto.flux import compiled
from impasto.flux.compiled import Compiled
from impasto.flux.models import TransformerParams
from impasto.flux.transformer import Flux

TINY = TransformerParams(
    in_channels=8, out_channels=8, vec_in_dim=8, context_in_dim=8, hidden_size=32, mlp_ratio=2.0, num_heads=2,
    depth=2, depth_single_blocks=2, axes_dim=(4, 6, 6), theta=10_000, qkv_bias=True, guidance_embed=True,
)  # fmt: skip

CHILD = """
import json, sys
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_compiled import TINY, drawn
from impasto.flux.compiled import Compiled, _counts
from impasto.flux.transformer import Flux

torch.manual_seed(0)
model = Flux(TINY).eval().requires_grad_(False)
plain = [drawn(model, side) for side in (64, 96)]
compiled = Compiled.of(model, folder=Path(sys.argv[1]))
assert compiled is not None
trial = _counts()
fast = [drawn(model, side) for side in (64, 96)]
apart = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(fast, plain))
with compiled.off():
    same = all(torch.equal(drawn(model, side), wanted) for side, wanted in zip((64, 96), plain))
print(json.dumps({"apart": apart, "off": same, "trial": trial, "after": _counts()}))
"""


@torch.inference_mode()
def drawn(model: Flux, side: int) -> torch.Tensor:
    from impasto.flux import latents as lat

    generator = torch.Generator().manual_seed(side)
    img = torch.randn(1, lat.token_count(side, side), 8, generator=generator)
    txt, vec = torch.randn(1, 12, 8, generator=generator), torch.randn(1, 8, generator=generator)
    return model(img, lat.image_ids(side, side), txt, lat.text_ids(12), torch.ones(1), vec, torch.ones(1))


def child(folder: Path) -> dict[str, object]:
    arguments = [sys.executable, "-c", CHILD, str(folder), str(Path(__file__).parent)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.skipif(compiled.obstacle(torch.device("cpu")) is not None, reason="no C++ compiler here")
def test_compiled_blocks_draw_the_same_and_the_next_process_takes_them_from_the_folder(tmp_path: Path) -> None:
    first, second = child(tmp_path), child(tmp_path)
    for found in (first, second):
        assert found["apart"] < 1e-5  # type: ignore[operator]
        assert found["off"] is True
        assert found["after"] == found["trial"], "a picture of another size was compiled anew"
    hits, misses = first["trial"]  # type: ignore[misc]
    assert (hits, misses > 0) == (0, True)
    assert second["trial"] == [misses, 0]
    assert f"for {misses} parts" in compiled.cost(tmp_path)


def test_without_a_compiler_the_model_stays_as_it_is_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = Flux(TINY).eval().requires_grad_(False)
    assert Compiled.of(model, folder=tmp_path / "cache") is None
    assert "C++ compiler" in caplog.text
    assert not (tmp_path / "cache").exists()
    assert torch.isfinite(drawn(model, 64)).all()


def test_a_compiler_that_fails_leaves_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CXX", str(broken))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):  # restored afterwards
        monkeypatch.setenv(name, str(tmp_path))
    model = Flux(TINY).eval().requires_grad_(False)
    wanted = drawn(model, 64)
    assert Compiled.of(model, folder=tmp_path / "cache") is None
    assert "the compiler failed" in caplog.text
    assert torch.equal(drawn(model, 64), wanted)
