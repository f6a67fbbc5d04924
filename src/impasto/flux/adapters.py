"""LoRA files → side branches of our layers. START READING AT `read`.

    file ─ StoredFile ─▶ keys ─ `_parse` ─▶ (layer by some dialect's name, part) ─ `places` ─▶ our layer and its rows

Three dialects name the same thing. Each layer has a first half (`down`, [r, in]), a second half (`up`, [out, r]), and
maybe an `alpha`: the change is alpha / r times up @ down (of rsLoRA, alpha / sqrt(r)).

    diffusers, PEFT   transformer.transformer_blocks.0.attn.to_q.lora_A.weight   (.lora_B; alpha in the header)
    kohya             lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight    (.lora_up, .alpha)
    BFL               double_blocks.0.img_attn.qkv.lora_A.weight, also below `diffusion_model.`
    x-labs            double_blocks.0.processor.qkv_lora1.down.weight            (1: image, 2: text)

A layer of one dialect may be a part of ours (query, key and value are one layer here): then its branch writes to some
rows only. safetensors only; a pickle is refused by name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from impasto.errors import WeightsError
from impasto.flux import keys
from impasto.flux.linear import Side, Up
from impasto.flux.models import TransformerParams
from impasto.flux.pickles import begins_pickle
from impasto.flux.stored import StoredFile

MAX_NAME = 120  # characters of a key that are shown
_PEFT_NAMES = ("", ".default", ".default_0")  # of an adapter, which some programs leave in the key
_DOWN = (*(f".lora_A{name}.weight" for name in _PEFT_NAMES), ".lora_down.weight", ".lora.down.weight", ".down.weight")
_UP = (*(f".lora_B{name}.weight" for name in _PEFT_NAMES), ".lora_up.weight", ".lora.up.weight", ".up.weight")
_SUFFIXES = {**dict.fromkeys(_DOWN, "down"), **dict.fromkeys(_UP, "up"), ".alpha": "alpha"}
_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "transformer.", "diffusion_model.", "model.", "unet.",
    "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
_OTHER_KINDS = {
    ".lokr_w1": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".hada_w1_a": "LoHa",
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".oft_blocks": "OFT",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dialect's layer lies in ours: the layer, its rows, its width [out, in]; `swap` as in `keys.Row`."""

    layer: str
    rows: slice
    shape: tuple[int, int]
    swap: bool = False


@dataclass(frozen=True, slots=True)
class Branch:
    """One layer's change: up @ down, alpha / r already in `up`. Float32 or as stored; [r, in] and [n, r]."""

    place: Place
    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA as it fits one model. `unmatched`: keys of the file that the model has no layer for."""

    branches: tuple[Branch, ...]
    unmatched: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        tensors = sum(branch.down.nbytes + branch.up.nbytes for branch in self.branches)
        return tensors + sum(map(len, self.unmatched))

    def to(self, device: torch.device, dtype: torch.dtype) -> Adapter:
        moved = (Branch(b.place, b.down.to(device, dtype), b.up.to(device, dtype)) for b in self.branches)
        return Adapter(tuple(moved), self.unmatched)


@dataclass(slots=True)
class _Found:
    """The parts of one layer, as they are met."""

    place: Place
    parts: dict[str, str] = field(default_factory=dict[str, str])  # down, up, alpha → key in the file


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


def read(path: Path, shapes: Mapping[str, tuple[int, int]], params: TransformerParams) -> Adapter:
    """A LoRA file for a model of these `params`, whose linear layers have these `shapes` ([out, in] by name).

    Raises WeightsError: a pickle, a damaged file, another kind of adapter, another architecture.
    """
    try:
        if path.is_file() and begins_pickle(_head(path)):
            raise WeightsError(f"{path.name} is a pickle, which can run code, so it is not read; send safetensors.")
        return _read(path, shapes, params)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # Strangers write these files: what no check has thought of is damage, too.
        raise WeightsError(f"{path.name} is damaged ({type(error).__name__}: {str(error)[:100]}).") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _read(path: Path, shapes: Mapping[str, tuple[int, int]], params: TransformerParams) -> Adapter:
    file = StoredFile(path)
    _refuse_kind(file.entries)
    table = places(params, shapes)
    found: dict[tuple[str, int, int], _Found] = {}
    doubled = _doubled(file.entries)
    unmatched = sorted(doubled)
    for key in (each for each in file.entries if each not in doubled):
        parsed = _parse(key)
        place = None if parsed is None else table.get(parsed[0])
        if parsed is None or place is None:
            unmatched.append(key)
            continue
        found.setdefault((place.layer, place.rows.start, place.rows.stop), _Found(place)).parts[parsed[1]] = key
    header = _header(path)
    branches: list[Branch] = []
    for each in found.values():
        if {"down", "up"} <= each.parts.keys():
            branches.append(_branch(file, each, header, noise=params.out_channels))
        else:
            unmatched += each.parts.values()
    if not branches:
        some = ", ".join(map(shown, list(file.entries)[:3])) or "nothing"
        raise WeightsError(f"{path.name}: no layer of this model is named in it, so it is for another one ({some}).")
    return Adapter(tuple(branches), tuple(sorted(map(shown, unmatched))))


def shown(key: str) -> str:
    """A key of somebody's file as text for people: not longer than names are, and nothing that is no character."""
    return key[:MAX_NAME].encode("utf-8", "replace").decode("utf-8") + ("…" if len(key) > MAX_NAME else "")


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


def places(params: TransformerParams, shapes: Mapping[str, tuple[int, int]]) -> dict[str, Place]:
    """Every name that a dialect has for a layer, dots and underscores alike → its place."""
    table: dict[str, Place] = {}
    for row in keys.transformer_rows(params):
        layer = row.bfl.removesuffix(".weight")
        if layer == row.bfl or layer not in shapes:
            continue
        out, width = shapes[layer]
        whole = Place(layer, slice(0, out), (out, width))
        starts = [sum(row.sizes[:i]) for i in range(len(row.sizes))] or [0]
        parts = [
            Place(layer, slice(start, start + size), (size, width), swap=row.swap)
            for start, size in zip(starts, row.sizes or (out,), strict=True)
        ]
        named = {layer: whole, **{k.removesuffix(".weight"): p for k, p in zip(row.diffusers, parts, strict=True)}}
        for name in _xlabs(layer):
            # x-labs change attention only: of a fused layer, the first three parts.
            qkv = slice(0, 3 * params.hidden_size) if "qkv" in name else whole.rows
            named[name] = Place(layer, qkv, (qkv.stop, width))
        for name, place in named.items():
            table[name] = table[name.replace(".", "_")] = place
    return table


def _xlabs(layer: str) -> Iterator[str]:
    block, _, rest = layer.partition(".")
    number, _, rest = rest.partition(".")
    names = {
        "img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1",
        "txt_attn.proj": "proj_lora2", "linear1": "qkv_lora", "linear2": "proj_lora",
    }  # fmt: skip
    if rest in names:
        yield f"{block}.{number}.processor.{names[rest]}"


def _doubled(names: Iterable[str]) -> set[str]:
    """What a file that speaks two dialects says a second time. Some hold the same change in both, and diffusers reads
    one: its own before all others, and kohya's names for diffusers' layers before those for BFL's.
    """
    for first, rest in (("transformer.", ""), ("lora_transformer_", "lora_unet_")):
        if any(name.startswith(first) for name in names):
            return {name for name in names if name.startswith(rest) and not name.startswith(first)}
    return set()


def _parse(key: str) -> tuple[str, str] | None:
    """(layer, part) of a key, without what stands before the layer; None: it is no part of a LoRA."""
    for suffix, part in _SUFFIXES.items():
        if key.endswith(suffix):
            layer = key.removesuffix(suffix)
            for prefix in _PREFIXES:
                layer = layer.removeprefix(prefix)
            return layer, part
    return None


def _matrix(half: Tensor) -> Tensor:
    """Some programs write a linear layer's halves as convolutions of one pixel."""
    return half[..., 0, 0] if half.ndim == 4 and half.shape[2:] == (1, 1) else half


def _branch(file: StoredFile, found: _Found, header: _Header, *, noise: int) -> Branch:
    """`noise`: channels of the image tokens that are drawn."""
    down, up = (_matrix(file.entries[found.parts[part]].view()) for part in ("down", "up"))
    out, width = found.place.shape
    if found.place.layer == "img_in" and down.shape[1:] == (noise,) and noise < width:
        # A LoRA of [dev] on Fill, Canny or Depth: it has learned nothing of the channels that come after the noise.
        down = functional.pad(down, (0, width - noise))
    matrices = down.ndim == up.ndim == 2 and 0 < down.shape[0] == up.shape[1]
    if not matrices or down.shape[1] != width or up.shape[0] != out:
        raise WeightsError(
            f"{file.path.name}: {found.parts['down']} {list(down.shape)} and {found.parts['up']} {list(up.shape)} do "
            f"not fit a layer of {out} x {width}: it is for another model."
        )
    rank = down.shape[0]
    if "alpha" in found.parts:
        scale = float(file.entries[found.parts["alpha"]].view().float().reshape(-1)[0]) / rank
    else:
        scale = header.scale(found.parts["down"], rank)
    if not math.isfinite(scale):
        raise WeightsError(f"{file.path.name}: the alpha of {shown(found.parts['down'])} is no number.")
    up = up.float() * scale
    if found.place.swap:
        up = torch.cat(up.chunk(2)[::-1])
    # Copies: the file may be deleted while its LoRA is in use.
    return Branch(found.place, down.float().clone(), up.clone())


def _header(path: Path) -> _Header:
    """PEFT's configuration out of a file's header: diffusers' pipelines write it with `transformer.` before each word,
    its transformer by itself without.
    """
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    text = header.get("__metadata__", {}).get("lora_adapter_metadata")
    try:
        config: dict[str, Any] = json.loads(text) if text else {}
        alpha, patterns, root = (
            config.get(f"transformer.{word}", config.get(word))
            for word in ("lora_alpha", "alpha_pattern", "use_rslora")
        )
        named = {str(name): float(value) for name, value in (patterns or {}).items()}
        return _Header(None if alpha is None else float(alpha), named, root=bool(root))
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path.name}: its header's lora_adapter_metadata is damaged ({error}).") from None


def _refuse_kind(names: Iterable[str]) -> None:
    for name in names:
        for suffix, kind in _OTHER_KINDS.items():
            if name.endswith((suffix, f"{suffix}.weight")):
                raise WeightsError(f"It is a {kind} ({name}); only plain LoRAs are read.")
