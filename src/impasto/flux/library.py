"""The models that a user keeps: one note each in the models folder, `NAME.json`, which says where the weights lie.

What was pulled lies beside it, in `NAME/`; what was added stays where it is. No torch here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from impasto.errors import ConfigError, WeightsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A model on this machine. `model`: what it is, a name of the table; `sums`: SHA-256 by path below the folder;
    `tensors`: CRC-32 of each tensor of these files by its key, to find the place where one is damaged.
    """

    name: str
    model: str
    path: Path
    source: str = ""
    revision: str = ""
    sums: Mapping[str, str] = field(default_factory=dict[str, str])
    tensors: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent


def kept(models: Path) -> list[Kept]:
    """All of the folder, by name; an unreadable note is passed over, `find` explains it."""
    found: list[Kept] = []
    for note in sorted(models.glob("*.json")):
        try:
            found.append(_read(note))
        except WeightsError:
            continue
    return found


def find(models: Path, name: str) -> Kept | None:
    """Raises WeightsError when there is a note under that name which cannot be read."""
    note = models / f"{name}.json"
    return _read(note) if _NAME.fullmatch(name) and note.is_file() else None


def keep(models: Path, item: Kept) -> None:
    """Writes the note, whole or not at all. Raises ConfigError for a name that is no file name."""
    if not _NAME.fullmatch(item.name):
        raise ConfigError(f"{item.name!r} cannot be a model's name: letters, digits, dot, dash and underscore.")
    models.mkdir(parents=True, exist_ok=True)
    note = models / f"{item.name}.json"
    fresh = note.with_suffix(".new")
    document = {
        "name": item.name,
        "model": item.model,
        "path": os.path.abspath(item.path),  # links stay: the hub's cache consists of them
        "source": item.source,
        "revision": item.revision,
        "sha256": dict(sorted(item.sums.items())),
        "crc32": {file: dict(sums) for file, sums in sorted(item.tensors.items())},
    }
    fresh.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    fresh.replace(note)


def forget(models: Path, item: Kept) -> bool:
    """Removes the note, and the weights when they are ours; → whether weights were deleted."""
    own = models / item.name
    ours = own.is_dir() and item.path.resolve() == own.resolve()
    if ours:
        shutil.rmtree(own)
    (models / f"{item.name}.json").unlink(missing_ok=True)
    return ours


def _read(note: Path) -> Kept:
    try:
        document = json.loads(note.read_text(encoding="utf-8"))
        return Kept(
            name=note.stem,
            model=str(document["model"]),
            path=Path(document["path"]),
            source=str(document.get("source", "")),
            revision=str(document.get("revision", "")),
            sums={str(key): str(value) for key, value in document.get("sha256", {}).items()},
            tensors={str(file): dict(sums) for file, sums in document.get("crc32", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{note}: is not what impasto wrote ({error!r}). Remove it and add or pull the model again."
        ) from None
