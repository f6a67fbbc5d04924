"""What lies in safetensors files: names and shapes at once, tensors only when they are asked for.

In: a file, or a folder of shards. Out: `Tensors`, a mapping whose values are views of the mapped file. Who has copied a
tensor calls `done`, and its pages are let go: loading a model takes the model's memory and one tensor, never twice the
model. fp8 files keep a scale beside a weight; here the two are one.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux import frame, kinds
from impasto.flux.pickles import PICKLES

Shape = tuple[int, ...]

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
FP8 = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
FLOATS = frozenset(dtype for dtype in DTYPES.values() if dtype.is_floating_point)
SUFFIXES = (".safetensors", ".sft")  # one format; BFL's own files ended in the second at first

SCALES = (".scale_weight", ".weight_scale")  # of X.weight; two programs write fp8 files, each with its own word
FORMAT = ".comfy_quant"  # of X.weight: JSON that names how it is stored
SCALED = ("float8_e4m3fn", "float8_e5m2")  # formats of it that are a weight with a scale beside it, and nothing else
UNUSED = (".scale_input", ".input_scale", "scaled_fp8")  # activations stay as they are here


class Tensors(Mapping[str, Tensor]):
    """Tensors by name. Views may be read until `done`, and must not be written to."""

    def __contains__(self, key: object) -> bool:
        # Mapping's own would fetch the tensor to see whether it is there.
        return key in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> Mapping[str, object]:
        raise NotImplementedError

    def shape(self, key: str) -> Shape:
        """Without reading the tensor, where that can be had."""
        return tuple(self[key].shape)

    def size(self, key: str) -> int:
        """Bytes as they lie in the file."""
        return self[key].nbytes

    def dtype(self, key: str) -> torch.dtype:
        """As it is stored."""
        return self[key].dtype

    def narrow(self, key: str) -> tuple[Tensor, Tensor] | None:
        """A matrix as it is stored in 8 bits, and each row's scale [rows, 1], float32. None: it is wider."""
        return None

    def is_narrow(self, key: str) -> bool:
        """Whether `narrow` has something; reads no tensor."""
        return False

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        """Whether the tensor, or what `narrow` gives of it, is the file's own bytes, which may be used as they lie
        there for as long as one likes.
        """
        return False

    def keeps(self, key: str) -> bool:
        """Whether the tensor is to stay in the dtype that it has here."""
        return False

    def done(self, key: str) -> None:
        """The tensor has been copied."""


class InMemory(Tensors):
    """A plain mapping in that form."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def _names(self) -> Mapping[str, object]:
        return self._tensors


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: bytes `start` to `end` of it."""

    file: StoredFile
    dtype: torch.dtype
    shape: Shape
    start: int
    end: int

    def view(self) -> Tensor:
        return self.file.view(self)


class StoredFile:
    """One safetensors file, its header read and judged. The data are mapped at the first view. `name`: the file's name
    in errors, its path unless stated.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        self.path = path
        self.name = str(path) if name is None else name
        self.frame = frame.read(path, name=self.name)
        self._map: mmap.mmap | None = None
        self.entries: dict[str, Entry] = self._read_header()

    def _read_header(self) -> dict[str, Entry]:
        return {key: self._entry(key, item) for key, item in self.frame.items.items()}

    def _entry(self, key: str, item: frame.Item) -> Entry:
        dtype = DTYPES.get(item.dtype)
        if dtype is None:
            packed = kinds.of_names((), (item.dtype,))
            why = f" These are {packed}." if packed else ""
            known = ", ".join(DTYPES)
            raise WeightsError(f"{self.name}: {frame.shown(key)} has dtype {item.dtype}; known are {known}.{why}")
        return Entry(self, dtype, item.shape, item.start, item.end)

    def view(self, entry: Entry) -> Tensor:
        count = prod(entry.shape)
        if count == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if self._map is None:
            with self.path.open("rb") as file:
                # Private: torch wants writable memory, and nothing that is written here reaches the file.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if entry.start % entry.dtype.itemsize:
            raw = torch.frombuffer(self._map, dtype=torch.uint8, count=entry.end - entry.start, offset=entry.start)
            return raw.clone().view(entry.dtype).reshape(entry.shape)
        return torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.start).reshape(entry.shape)

    def done(self, entry: Entry) -> None:
        """Let the entry's whole pages go. A later view reads them again."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        first = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - first
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, first, length)


class Stored(Tensors):
    """Files as one mapping. A weight with a scale beside it comes scaled, in float32."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._scales: dict[str, Entry] = {}
        self._entries: dict[str, Entry] = {}
        for key, entry in entries.items():
            suffix = next((suffix for suffix in SCALES if key.endswith(suffix)), None)
            if suffix is not None and f"{key.removesuffix(suffix)}.weight" in entries:
                self._scales[f"{key.removesuffix(suffix)}.weight"] = entry
            elif key.endswith(FORMAT):
                _check_format(key, entry)
            elif not key.endswith(UNUSED):
                self._entries[key] = entry
        for key, scale in self._scales.items():
            _check_scale(key, entries[key], scale)

    def __getitem__(self, key: str) -> Tensor:
        tensor = self._entries[key].view()
        if key not in self._scales:
            return tensor
        scale = self._scales[key].view().float()
        return tensor.float() * (scale.reshape(-1, *[1] * (tensor.ndim - 1)) if scale.numel() > 1 else scale)

    def dtype(self, key: str) -> torch.dtype:
        return self._entries[key].dtype

    def narrow(self, key: str) -> tuple[Tensor, Tensor] | None:
        if not self.is_narrow(key):
            return None
        tensor, scale = self._entries[key].view(), self._scales.get(key)
        rows = torch.ones(1) if scale is None else scale.view().float().reshape(-1)
        return tensor, rows.expand(tensor.shape[0])[:, None]

    def is_narrow(self, key: str) -> bool:
        return self._entries[key].dtype in FP8 and len(self._entries[key].shape) == 2

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        entry = self._entries[key]
        as_it_is = self.is_narrow(key) if narrow else key not in self._scales
        return as_it_is and entry.start % entry.dtype.itemsize == 0

    def _names(self) -> Mapping[str, object]:
        return self._entries

    def shape(self, key: str) -> Shape:
        return self._entries[key].shape

    def size(self, key: str) -> int:
        return self._entries[key].end - self._entries[key].start

    def done(self, key: str) -> None:
        entry = self._entries[key]
        entry.file.done(entry)

    def below(self, *prefixes: str) -> Stored:
        """The part of an all-in-one file under the first of `prefixes` that it has, without it; "" is the whole."""
        for prefix in prefixes:
            entries = self._entries | {f"{k.removesuffix('.weight')}{SCALES[0]}": v for k, v in self._scales.items()}
            found = {key.removeprefix(prefix): entry for key, entry in entries.items() if key.startswith(prefix)}
            if found:
                return Stored(found)
        return Stored({})


def _check_scale(key: str, weight: Entry, scale: Entry) -> None:
    """Raise WeightsError unless the scale is one number for the weight, or one for each of its rows: what loading
    multiplies by.
    """
    shape, rows = scale.shape, weight.shape[:1]
    by_row = bool(rows) and shape[:1] == rows and prod(shape) == rows[0]
    if scale.dtype not in FLOATS or not (prod(shape) == 1 or by_row):
        raise WeightsError(
            f"{weight.file.name}: {key} {list(weight.shape)} has a scale of {list(shape)}: it is {kinds.BLOCK_SCALED}."
        )


def _check_format(key: str, entry: Entry) -> None:
    """Raises WeightsError for a format that is not understood: its numbers would mean something else."""
    try:
        found = json.loads(entry.view().numpy().tobytes())["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{entry.file.path}: {key} does not say a format ({error!r}).") from None
    if found not in SCALED:
        raise WeightsError(f"{entry.file.path}: {key} says {found!r}; of such formats {' and '.join(SCALED)} are read.")


def open_stored(path: Path) -> Stored:
    """A safetensors file, or a folder of shards with its `*.safetensors.index.json` or without.

    Raises WeightsError when the path is missing, is no safetensors file or incomplete, or lacks a shard that its index
    names.
    """
    entries: dict[str, Entry] = {}
    for file in files_of(path):
        entries.update(StoredFile(file).entries)
    return Stored(entries)


def read_json(path: Path) -> dict[str, Any]:
    """A checkpoint's JSON file. Raises WeightsError when it is missing or is not a JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). A checkpoint folder needs it.") from None
    except ValueError as error:
        raise WeightsError(f"{path}: is not valid JSON ({error}).") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: must hold a JSON object.")
    return cast("dict[str, Any]", config)


_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, by name."""
    return sorted(file for suffix in SUFFIXES for file in folder.glob(f"*{suffix}"))


def _refuse_missing_shards(folder: Path, files: list[Path]) -> None:
    """Without an index, the files' own names say how many belong together."""
    names = {file.stem for file in files}
    for match in filter(None, map(_SHARD.fullmatch, sorted(names))):
        for number in range(1, int(match[3]) + 1):
            if (wanted := f"{match[1]}-{number:05}-of-{match[3]}") not in names:
                raise WeightsError(f"{folder}: {match[0]} belongs to shards that are not there: {wanted}.")


def files_of(path: Path) -> list[Path]:
    """The safetensors files of a part: itself, the shards that its index names, or all of the folder."""
    if path.is_file() and path.suffix in SUFFIXES:
        return [path]
    if path.is_file():
        with path.open("rb") as file:
            kind = kinds.of_bytes(file.read(kinds.HEAD), size=path.stat().st_size, name=path.name)
        why = "" if kind is None else f" This is {kind}."
        raise WeightsError(f"{path}: only .safetensors and .sft files are read.{why}")
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file or folder.")
    for index in sorted(path.glob("*.safetensors.index.json")):
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        lost = [shard for shard in shards if not (path / shard).is_file()]
        if lost:
            named = ", ".join(lost[:8]) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
            raise WeightsError(f"{path}: {index.name} names shards that are not there: {named}.")
        return [path / shard for shard in shards]
    files = weight_files(path)
    if files:
        _refuse_missing_shards(path, files)
        return files
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise WeightsError(
            f"{path}: {pickles[0]} is a pickle, which can run code, so it is not read; a .safetensors file is needed."
        )
    raise WeightsError(f"{path}: holds no .safetensors file.")
