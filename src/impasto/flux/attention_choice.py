"""Which of torch's attention kernels a GPU runs: the fastest for this model's heads, found by trying.

The kernels round differently, so a choice that changed from start to start would change pictures. It is made once for
a GPU, a torch and a shape of heads, and kept in a file. A CPU has one kernel: nothing to choose.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from impasto.flux.transformer import Flux

log = logging.getLogger("impasto.flux")

BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
FILE = "attention.json"
TOKENS = 4096 + 512  # of 1024x1024 and the text

_FOR_EVER = ExitStack()

Seconds = Callable[[str], float]
"""What a kernel takes, by its name in `BACKENDS`. Raises RuntimeError when it does not run here."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`name`: of `BACKENDS`."""

    name: str

    def used(self) -> AbstractContextManager[object]:
        """Within, attention runs in this kernel; where it cannot (the autoencoder's wide head, T5's bias), in the
        efficient one, and in the plain one where that cannot.

        What is set is the whole process's: see `use`.
        """
        order = dict.fromkeys((BACKENDS[self.name], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH))
        return sdpa_kernel(list(order), set_priority=True)

    def use(self) -> None:
        """`used` from now on. Set around every step, it would change under whatever another thread computes meanwhile,
        the last picture's decoding or the next prompt: other kernels, other bits.
        """
        _FOR_EVER.enter_context(self.used())


def choose(model: Flux, *, folder: Path | None) -> Choice | None:
    """The kernel for `model` on its GPU: the one kept in `folder`, or the fastest. None on a CPU."""
    own = next(model.parameters())
    if own.device.type != "cuda":
        return None
    p = model.params
    gpu = torch.cuda.get_device_name(own.device)
    return decide(
        lambda name: _measured(name, heads=p.num_heads, dim=p.head_dim, dtype=own.dtype, device=own.device),
        key=f"{gpu}, torch {torch.__version__}, {p.num_heads} heads of {p.head_dim}, {own.dtype}",
        folder=folder,
    )


def decide(seconds: Seconds, *, key: str, folder: Path | None) -> Choice | None:
    """The fastest kernel by `seconds`, or the one that was for `key`, which then is not measured again."""
    file = None if folder is None else folder / FILE
    kept = _read(file)
    if kept.get(key) in BACKENDS:
        return Choice(kept[key])
    found: dict[str, float] = {}
    for name in BACKENDS:
        try:
            found[name] = seconds(name)
        except RuntimeError as error:
            log.debug("Attention %s does not run here: %s", name, error)
    if not found:
        return None
    best = min(found, key=lambda name: found[name])
    told = ", ".join(f"{name} {1000 * took:.2f} ms" for name, took in found.items())
    log.info("Attention runs in %s (%s)", best, told)
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(json.dumps({**kept, key: best}, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            log.warning("The choice is not kept and will be made again: %s", error)
    return Choice(best)


def _read(file: Path | None) -> Mapping[str, str]:
    """What was measured before; a file that cannot be read counts as none."""
    if file is None or not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@torch.inference_mode()
def _measured(name: str, *, heads: int, dim: int, dtype: torch.dtype, device: torch.device) -> float:
    q, k, v = (torch.randn(1, heads, TOKENS, dim, dtype=dtype, device=device) for _ in range(3))
    times: list[float] = []
    with sdpa_kernel(BACKENDS[name]):
        for _ in range(6):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            F.scaled_dot_product_attention(q, k, v)
            end.record()
            torch.cuda.synchronize(device)
            times.append(start.elapsed_time(end) / 1000)
    return min(times[1:])
