"""The blocks through torch.compile, one compilation for all blocks of a kind; its products are kept in a folder.

In: a model and a folder. Out: a `Compiled`, or None with a line in the log that says why not: the compiler is looked
for before, and a small step is tried, so that a request never meets a compiler that fails. Sizes are compiled as
unknowns: a picture of another size is not compiled anew. Rounding differs from the plain way in the last digit.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from impasto.flux import latents as lat
from impasto.flux.transformer import Flux

log = logging.getLogger("impasto.flux")

_TRIAL = (128, 160)  # height, width of the step that is tried: small, and no two lengths in it alike
_TRIAL_WORDS = 24
_COST = "cost.txt"
_OLDEST_CUDA = (7, 0)  # what Triton compiles for


def obstacle(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device` on this machine, with the remedy; None: it can."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU: pip install triton"
        if torch.cuda.get_device_capability(device) < _OLDEST_CUDA:
            return f"Triton knows no {torch.cuda.get_device_name(device)}"
        return None
    if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name):
        return "torch.compile needs a C++ compiler on a CPU: install g++ or clang++, or name one in CXX"
    return None


def cost(folder: Path) -> str:
    """What compiling took when it was last done anew, in words."""
    file = folder / _COST
    return (
        f"compiled in {file.read_text('utf-8')}" if file.is_file() else "not compiled yet: a minute at the next start"
    )


class Compiled:
    """Compiled blocks of one model."""

    def __init__(self, model: Flux, folder: Path) -> None:
        self._model = model
        self._seen = _counts()

    @classmethod
    def of(cls, model: Flux, *, folder: Path, rows: int = 1) -> Compiled | None:
        """Compiles the blocks of `model` for batches of `rows`, and tries them. None when that does not work here, and
        the model is as it was.
        """
        if (reason := obstacle(next(model.parameters()).device)) is not None:
            log.warning("Blocks are not compiled (model.compile): %s", reason)
            return None
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
        compiled = cls(model, folder)
        start = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for block in _blocks(model):
                block.compile(dynamic=True)
            compiled._try(rows)
        except Exception as error:  # noqa: BLE001 - whatever a compiler raises, the plain way is still there
            for block in _blocks(model):
                block._compiled_call_impl = None  # pyright: ignore[reportPrivateUsage] - torch offers no way back
            reason = str(error).strip().partition("\n")[0]
            log.warning(
                "Blocks are not compiled (model.compile), the compiler failed: %s: %s", type(error).__name__, reason
            )
            return None
        seconds, (kept, made) = time.monotonic() - start, compiled.news()
        log.info("Blocks compiled in %.1f s: %d from %s, %d anew", seconds, kept, folder, made)
        if made:
            (folder / _COST).write_text(f"{seconds:.0f} s for {made} parts, torch {torch.__version__}", "utf-8")
        return compiled

    def news(self) -> tuple[int, int]:
        """Parts compiled since the last question: taken from the folder, and made anew."""
        before, self._seen = self._seen, _counts()
        return self._seen[0] - before[0], self._seen[1] - before[1]

    @contextmanager
    def off(self) -> Generator[None]:
        """Within, the model runs the plain way. For side branches: each LoRA would be compiled anew."""
        with torch.compiler.set_stance("force_eager"):
            yield

    @torch.inference_mode()
    def _try(self, rows: int) -> None:
        params, model = self._model.params, self._model
        own = next(model.parameters())
        height, width = _TRIAL
        img = torch.zeros(rows, lat.token_count(height, width), params.in_channels, device=own.device)
        txt = torch.zeros(rows, _TRIAL_WORDS, params.context_in_dim, device=own.device)
        pe = model.positions(lat.text_ids(_TRIAL_WORDS), lat.image_ids(height, width)).to(own.device)
        scale = torch.ones(rows, device=own.device) if params.guidance_embed else None
        pooled = torch.zeros(rows, params.vec_in_dim, device=own.device, dtype=own.dtype)
        vec = model.vector(torch.ones(1, rows, device=own.device), pooled, scale)
        model.velocity(img, model.context(txt), pe, model.modulate(vec).at(0))


def _blocks(model: Flux) -> Iterator[nn.Module]:
    yield from model.double_blocks
    yield from model.single_blocks


def _counts() -> tuple[int, int]:
    """Compilations of this process so far: taken from the folder, and done."""
    from torch._dynamo.utils import counters

    found = cast("Any", counters)["inductor"]
    return found["fxgraph_cache_hit"], found["fxgraph_cache_miss"]
