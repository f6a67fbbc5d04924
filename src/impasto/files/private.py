"""Folders and files of the data folder: for the server's own user only, whatever the umask says."""

import os
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def make_folder(path: Path) -> None:
    """Make a folder and what is missing above it, each for its owner only; one that exists stays as it is.

    `Path.mkdir(parents=True, mode=…)` gives the mode to the last one only. Raises `OSError`.
    """
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def create(path: Path) -> BinaryIO:
    """Open a new file for writing, for its owner only. Raises `OSError`, `FileExistsError` among them."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, FILE_MODE))
