"""Which dtype to compute in, and on how many threads.

bf16 halves the bytes and, where the processor multiplies bf16 itself, at least doubles the speed; elsewhere PyTorch
emulates it, slower than float32. So the processor is asked, never assumed. Measured numbers: benchmarks/LOG.md.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class Precision:
    """`transformer` and `autoencoder`: dtypes of weights and activations; `reason`: one sentence for logs and
    `impasto doctor`.
    """

    transformer: torch.dtype
    autoencoder: torch.dtype
    reason: str


def choose(device: torch.device) -> Precision:
    """The precision for `device`: bf16 on CUDA from Ampere on, bf16 on CPUs that multiply it in hardware, else
    float32.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(torch.bfloat16, torch.bfloat16, "bf16: this GPU computes it natively")
        return Precision(torch.float32, torch.float32, "float32: this GPU emulates bf16")
    found = sorted(cpu_features() & {"amx_bf16", "avx512_bf16"})
    if found:
        return Precision(torch.bfloat16, torch.bfloat16, f"bf16: this processor has {' and '.join(found)}")
    return Precision(torch.float32, torch.float32, "float32: this processor has neither amx_bf16 nor avx512_bf16")


def cores() -> int:
    """Cores that this process may use: the container's or the affinity mask's share, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_features() -> frozenset[str]:
    """The processor's feature flags, lower case, as Linux spells them; empty where they cannot be read."""
    features = {
        name
        for name, probe in (("amx_bf16", "_is_amx_tile_supported"), ("avx512_bf16", "_is_avx512_bf16_supported"))
        if getattr(torch.cpu, probe, bool)()
    }
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() in {"x86_64", "AMD64"} and cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("flags"):
                features.update(line.partition(":")[2].lower().split())
                break
    return frozenset(features)
