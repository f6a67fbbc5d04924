"""Running out of memory, as torch says it."""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory was full. On the CPU torch says so in words only."""
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def release(device: torch.device) -> None:
    """Give cached memory of the device back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
