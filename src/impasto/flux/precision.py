"""Which dtype to compute in, and on how many threads.

bf16 halves the bytes and, where the processor multiplies bf16 itself, at least doubles the speed; elsewhere PyTorch
emulates it, slower than float32. So the processor is asked, never assumed. Measured numbers: benchmarks/LOG.md.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import torch

from impasto.errors import ConfigError

_BF16 = frozenset({"amx_bf16", "avx512_bf16"})
_KNOWN = _BF16 | {"avx2", "avx512f"}


def choose_device(name: str) -> torch.device:
    """ "auto" → the GPU when there is one, else the CPU; other names as torch knows them. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device {name}: this torch ({torch.__version__}) sees no GPU. Set model.device to auto or cpu."
        )
    return device


def choose_dtype(device: torch.device | str) -> torch.dtype:
    """bf16 where `device` multiplies it natively (CUDA from Ampere on; CPUs with AMX or AVX-512 BF16), else float32."""
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _BF16 & cpu_features() else torch.float32


def cores() -> int:
    """Cores that this process may use: the container's or the affinity mask's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_features() -> frozenset[str]:
    """Which of avx2, avx512f, avx512_bf16 and amx_bf16 the processor has, under Linux's names."""
    features: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() in {"x86_64", "AMD64"} and cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        features.update(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    # torch asks the processor itself where there is no such file; not every torch release has both questions.
    for name, probe in (("amx_bf16", "_is_amx_tile_supported"), ("avx512_bf16", "_is_avx512_bf16_supported")):
        if getattr(torch.cpu, probe, bool)():
            features.add(name)
    return frozenset(features & _KNOWN)
