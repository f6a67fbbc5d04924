"""Weights that are never read: a pickle can run code. No torch: the server process refuses them, too."""

from __future__ import annotations

from pathlib import PurePosixPath

PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})


def is_pickle(name: str) -> bool:
    """Whether a file's name, or the path of its URL, says pickle."""
    return PurePosixPath(name).suffix.lower() in PICKLES
