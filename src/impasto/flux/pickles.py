"""Weights that are never read: a pickle can run code. No torch: the server process refuses them, too."""

from __future__ import annotations

from pathlib import PurePosixPath

PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl"})

_HEADS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch's zip, and pickles as such


def is_pickle(name: str) -> bool:
    """Whether a file's name, or the path of its URL, says pickle."""
    return PurePosixPath(name).suffix.lower() in PICKLES


def begins_pickle(head: bytes) -> bool:
    """Whether a file that begins with these bytes, four or more, is one, whatever its name."""
    return head.startswith(_HEADS)
