"""Running out of memory, as torch says it."""

from __future__ import annotations

import torch

_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How the CPU's allocator, the driver and the libraries on top of it say it, without a type of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory was full."""
    in_words = isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
    return in_words or isinstance(error, MemoryError | torch.OutOfMemoryError)


def release(device: torch.device) -> None:
    """Give cached memory of the device back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
