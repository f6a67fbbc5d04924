"""LoRA files → side branches of our layers. START READING AT `plan`.

    file ─ StoredFile ─▶ keys ─ `dialects` ─▶ our layer and its rows ─ `plan` ─▶ judged ─ `Plan.read` ─▶ `Adapter`

These dialects name the same thing. Each layer has a first half (`down`, [r, in]), a second half (`up`, [out, r]), and
maybe an `alpha`: the change is alpha / r times up @ down (of rsLoRA, alpha / sqrt(r)).

    diffusers, PEFT   transformer.transformer_blocks.0.attn.to_q.lora_A.weight   (.lora_B; alpha in the header)
    kohya             lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight    (.lora_up, .alpha)
    BFL               double_blocks.0.img_attn.qkv.lora_A.weight, also below `diffusion_model.`
    OneTrainer, OMI   transformer.double_blocks.0.img_attn.qkv.0.lora_down.weight  (0: query, 1: key, 2: value)
    x-labs            double_blocks.0.processor.qkv_lora1.down.weight            (1: image, 2: text)

A layer of one dialect may be a part of ours (query, key and value are one layer here): then its branch writes to some
rows only. safetensors only; other kinds of files and of adapters are refused by name. A file is judged by its header,
its bounds included, before a tensor is read: no small file takes large memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impasto.errors import WeightsError
from impasto.flux import dialects, kinds
from impasto.flux.dialects import Part, Place
from impasto.flux.frame import shown
from impasto.flux.linear import Side, Up
from impasto.flux.models import TransformerParams
from impasto.flux.stored import FLOATS, Entry, StoredFile

FLOAT_BYTES = 4
_DAMAGE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""Strangers write these files: what no check has thought of is damage, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one LoRA may take: `float_bytes` of its matrices in float32, `rank` of each of its layers, `tensors` in its
    file. The sentences of `unless_within` name the settings.
    """

    float_bytes: int = 2**62
    rank: int = 2**62
    tensors: int = 2**62


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Branch:
    """One layer's change: up @ down, alpha / r already in `up`. Float32 or as stored; [r, in] and [n, r]."""

    place: Place
    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA as it fits one model. `unmatched`: keys of the file that the model has no layer for; `float_bytes`: of its
    matrices in float32, as its plan says.
    """

    branches: tuple[Branch, ...]
    unmatched: tuple[str, ...] = ()
    float_bytes: int = 0

    @property
    def nbytes(self) -> int:
        tensors = sum(branch.down.nbytes + branch.up.nbytes for branch in self.branches)
        return tensors + sum(map(len, self.unmatched))


@dataclass(slots=True)
class _Found:
    """The parts of one layer, as they are met."""

    place: Place
    parts: dict[Part, str] = field(default_factory=dict[Part, str])  # → key in the file


@dataclass(frozen=True, slots=True)
class _Header:
    """What a file's header says of its layers' alphas: `alpha` of those that are not `named`; `root`: it is divided by
    the root of the rank (rsLoRA) and not by the rank.
    """

    alpha: float | None
    named: Mapping[str, float]
    root: bool

    def scale(self, key: str, rank: int) -> float:
        """Of the layer with that key; without a word about it the change counts as it is."""
        layer = key.rpartition(".lora_")[0].removeprefix("transformer.")
        alpha = next(
            (alpha for name, alpha in self.named.items() if name and f".{layer}".endswith(f".{name}")), self.alpha
        )
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's change, judged by the header: entries that hold it, columns that are missing behind `down`."""

    place: Place
    down: Entry
    up: Entry
    scale: float
    missing: int = 0

    @property
    def float_bytes(self) -> int:
        rank, (out, width) = self.down.shape[0], self.place.shape
        return FLOAT_BYTES * rank * (out + width)

    def read(self, name: str, device: torch.device, dtype: torch.dtype) -> Branch:
        down, up = _matrix(self.down.view()).float(), _matrix(self.up.view()).float() * self.scale
        if not (math.isfinite(down.abs().amax()) and math.isfinite(up.abs().amax())):
            raise WeightsError(f"{name}: the change of {self.place.layer} holds numbers that are not finite.")
        down = functional.pad(down, (0, self.missing)) if self.missing else down
        up = torch.cat(up.chunk(2)[::-1]) if self.place.swap else up
        # Copies: the file may be deleted while its LoRA is in use.
        return Branch(self.place, *(half.to(device, dtype, copy=True) for half in (down, up)))


@dataclass(frozen=True, slots=True)
class Plan:
    """A LoRA file that was judged by its header: what `read` will take and do."""

    name: str
    layers: tuple[_Layer, ...]
    unmatched: tuple[str, ...]

    @property
    def float_bytes(self) -> int:
        """Bytes of its matrices in float32."""
        return sum(layer.float_bytes for layer in self.layers)

    def read(self, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Adapter:
        """Read its matrices to `device` (the CPU unless stated), layer by layer. Raises WeightsError for numbers that
        are not finite.
        """
        device = device or torch.device("cpu")
        branches = tuple(layer.read(self.name, device, dtype) for layer in self.layers)
        return Adapter(branches, self.unmatched, self.float_bytes)


def read(path: Path, shapes: Mapping[str, tuple[int, int]], params: TransformerParams) -> Adapter:
    """Judge and read a LoRA file on the CPU; see `plan`."""
    return plan(path, shapes, params).read()


def plan(
    path: Path, shapes: Mapping[str, tuple[int, int]], params: TransformerParams, *, limits: Limits = NO_LIMITS
) -> Plan:
    """Judge a LoRA file for a model of these `params`, whose linear layers have these `shapes` ([out, in] by name).

    Raises WeightsError: a file that is not safetensors, a damaged file, another kind of adapter, another architecture,
    more than `limits` allow. Reads the header and the alphas only.
    """
    try:
        file = StoredFile(path, name=path.name)
        return _plan(file, dialects.Table(params, shapes), limits, noise=params.out_channels)
    except _DAMAGE as error:
        raise WeightsError(f"{path.name} is damaged ({type(error).__name__}: {str(error)[:100]}).") from None


def _plan(file: StoredFile, table: dialects.Table, limits: Limits, *, noise: int) -> Plan:
    if len(file.entries) > limits.tensors:
        raise WeightsError(
            f"{file.name}: {len(file.entries)} tensors are more than the {limits.tensors} that a LoRA may have here "
            "(setting model.lora_tensors)."
        )
    _refuse_kind(file, table)
    found, unmatched = _sorted(file, table)
    header = _header(file)
    layers: list[_Layer] = []
    for each in sorted(found, key=lambda each: each.place.order):
        if {"down", "up"} <= each.parts.keys():
            layers.append(_judged(file, each, header, limits, noise=noise))
        else:
            unmatched += each.parts.values()
    if not layers:
        some = ", ".join(map(shown, list(file.entries)[:3])) or "nothing"
        what = kinds.network(file.entries)
        what = f"it is {what}" if what is not None and not what.startswith("a LoRA") else "it is for another one"
        raise WeightsError(f"{file.name}: no layer of this model is named in it, so {what} ({some}).")
    _refuse_overlaps(file, layers)
    _refuse_unread(file, table, unmatched, {layer.place.layer for layer in layers})
    made = Plan(file.name, tuple(layers), tuple(sorted(map(shown, unmatched))))
    if made.float_bytes > limits.float_bytes:
        raise WeightsError(
            f"{file.name}: its matrices take {_mib(made.float_bytes)} MiB in float32, more than the "
            f"{_mib(limits.float_bytes)} MiB that a LoRA may take here (setting model.lora_mb)."
        )
    return made


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f}"


def _sorted(file: StoredFile, table: dialects.Table) -> tuple[list[_Found], list[str]]:
    """The parts of the file by the rows that they change, and the keys that are no part of a change of this model."""
    found: dict[tuple[str, int, int], _Found] = {}
    names: set[str] = set()
    doubled = dialects.doubled(file.entries)
    unmatched = sorted(doubled)
    for key in (each for each in file.entries if each not in doubled):
        named = dialects.parse(key)
        place = None if named is None else table.place(named)
        if named is None or place is None:
            unmatched.append(key)
            continue
        if named.part != "alpha":
            names.add(named.adapter)
        parts = found.setdefault(place.order, _Found(place)).parts
        if named.part in parts and len(names) < 2:
            raise WeightsError(
                f"{file.name}: {shown(parts[named.part])} and {shown(key)} are the same part of one layer twice."
            )
        parts[named.part] = key
    if len(names) > 1:
        listed = ", ".join(shown(name) or "(no name)" for name in sorted(names)[:5])
        raise WeightsError(f"{file.name}: holds several adapters ({listed}). Save each as a file of its own.")
    return list(found.values()), unmatched


def _judged(file: StoredFile, found: _Found, header: _Header, limits: Limits, *, noise: int) -> _Layer:
    """Judge one layer's change by shapes. `noise`: channels of the image tokens that are drawn."""
    down, up = file.entries[found.parts["down"]], file.entries[found.parts["up"]]
    (out, width), missing = found.place.shape, 0
    wide, tall = (_matrix_shape(entry.shape) for entry in (down, up))
    if found.place.layer == "img_in" and len(wide) == 2 and wide[1] > width:
        raise WeightsError(
            f"{file.name}: it is a control LoRA: it widens the first layer from {width} to {wide[1]} channels. Such "
            "are not served; the whole models are flux.1-canny-dev, flux.1-depth-dev and flux.1-fill-dev."
        )
    if found.place.layer == "img_in" and wide[1:] == (noise,) and noise < width:
        # A LoRA of [dev] on Fill, Canny or Depth: it has learned nothing of the channels that come after the noise.
        missing = width - noise
    matrices = len(wide) == len(tall) == 2 and 0 < wide[0] == tall[1]
    if not matrices or wide[1] + missing != width or tall[0] != out:
        raise WeightsError(
            f"{file.name}: {shown(found.parts['down'])} {list(down.shape)} and {shown(found.parts['up'])} "
            f"{list(up.shape)} do not fit a layer of {out} x {width}: it is for another model."
        )
    if down.dtype not in FLOATS or up.dtype not in FLOATS:
        raise WeightsError(
            f"{file.name}: {shown(found.parts['down'])} is stored in integers; a LoRA in 16 or 32 bits is needed."
        )
    rank = wide[0]
    if rank > limits.rank:
        raise WeightsError(
            f"{file.name}: {shown(found.parts['down'])} has rank {rank}, more than the {limits.rank} that a LoRA may "
            "have here (setting model.lora_rank)."
        )
    return _Layer(found.place, down, up, _scale(file, found, header, rank), missing)


def _scale(file: StoredFile, found: _Found, header: _Header, rank: int) -> float:
    """What the product is multiplied by."""
    if "alpha" in found.parts:
        alpha = file.entries[found.parts["alpha"]]
        if math.prod(alpha.shape) != 1:
            raise WeightsError(
                f"{file.name}: {shown(found.parts['alpha'])} {list(alpha.shape)} must be a single number."
            )
        scale = float(alpha.view().float().reshape(())) / rank
    else:
        scale = header.scale(found.parts["down"], rank)
    if not math.isfinite(scale):
        raise WeightsError(f"{file.name}: the alpha of {shown(found.parts['down'])} is no number.")
    return scale


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _refuse_kind(file: StoredFile, table: dialects.Table) -> None:
    found = dialects.other_kind({key: entry.shape for key, entry in file.entries.items()}, table)
    if found is not None:
        kind, key = found
        raise WeightsError(f"{file.name}: its kind is {kind} ({shown(key)}); only plain LoRAs are read.")


def _refuse_overlaps(file: StoredFile, layers: Iterable[_Layer]) -> None:
    """Two changes of the same rows: a layer as a whole and in parts, which some file says in two dialects."""
    before: Place | None = None
    for place in (layer.place for layer in layers):
        if before is not None and before.layer == place.layer and place.rows.start < before.rows.stop:
            raise WeightsError(
                f"{file.name}: it changes {place.layer} as a whole and in parts, which would count twice."
            )
        before = place


def _refuse_unread(file: StoredFile, table: dialects.Table, unmatched: Sequence[str], read: set[str]) -> None:
    """Refuse a file most of whose keys name layers of this model and were not understood: another image would come of
    what is left. Keys that say a second time what was read (see `dialects.doubled`) count as understood.
    """
    lost: list[str] = []
    for key in unmatched:
        named = dialects.parse(key)
        place = None if named is None else table.place(named)
        if table.has(key) and (place is None or place.layer not in read):
            lost.append(key)
    if len(lost) > len(file.entries) - len(unmatched):
        some = ", ".join(map(shown, lost[:3]))
        raise WeightsError(
            f"{file.name}: {len(lost)} of its {len(file.entries)} keys name layers of this model in a way that is not "
            f"understood, so most of it would have no effect ({some})."
        )


def combine(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, Side]:
    """Several LoRAs with their scales as one set of sides. A scale of 0 is as if the LoRA was not named."""
    by_layer: dict[str, list[tuple[Branch, float]]] = {}
    for adapter, scale in adapters:
        for branch in adapter.branches if scale else ():
            by_layer.setdefault(branch.place.layer, []).append((branch, scale))
    return {layer: _side(branches) for layer, branches in by_layer.items()}


def _side(branches: list[tuple[Branch, float]]) -> Side:
    ups: list[Up] = []
    rank = 0
    for branch, scale in branches:
        width = branch.down.shape[0]
        ups.append(Up(branch.place.rows, slice(rank, rank + width), branch.up * scale))
        rank += width
    downs = [branch.down for branch, _ in branches]
    return Side(torch.cat(downs) if len(downs) > 1 else downs[0], tuple(ups))


def _matrix(half: Tensor) -> Tensor:
    """Some programs write a linear layer's halves as convolutions of one pixel."""
    return half[..., 0, 0] if half.ndim == 4 and half.shape[2:] == (1, 1) else half


def _header(file: StoredFile) -> _Header:
    """PEFT's configuration out of a file's header: diffusers' pipelines write it with `transformer.` before each word,
    its transformer by itself without.
    """
    text = file.frame.metadata.get("lora_adapter_metadata")
    try:
        config: dict[str, Any] = json.loads(text) if text else {}
        alpha, patterns, root, dora = (
            config.get(f"transformer.{word}", config.get(word))
            for word in ("lora_alpha", "alpha_pattern", "use_rslora", "use_dora")
        )
        named = {str(name): float(value) for name, value in (patterns or {}).items()}
        header = _Header(None if alpha is None else float(alpha), named, root=bool(root))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{file.name}: its header's lora_adapter_metadata is damaged ({error}).") from None
    if dora:
        raise WeightsError(f"{file.name}: its kind is DoRA (use_dora in its header); only plain LoRAs are read.")
    return header
