"""The names in LoRA files: which layer of ours a key means, which part of its change, and other kinds of adapters.

In: keys. Out: `Named` (a layer by some dialect's name, and the part), `Place` (the layer of ours and its rows), and
what kind of adapter a file is that is no plain LoRA. Dots and underscores mean the same in names of layers, and what
programs leave around them (`diffusion_model.`, `_orig_mod.`, a trailing `_`, an adapter's name) means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from impasto.flux import keys
from impasto.flux.models import TransformerParams

Part = Literal["down", "up", "alpha"]

_PREFIXES = (
    "module.", "base_model.model.", "model.diffusion_model.", "transformer.", "diffusion_model.", "model.", "unet.",
    "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARTS = re.compile(
    r"""(?P<layer>.+?)\.(?:
        lora_(?P<half>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight
        | (?:lora\.|lora_linear_layer\.)?(?P<bare>down|up)\.weight
        | (?P<alpha>alpha|lora_alpha)
    )""",
    re.VERBOSE,
)
_HALVES: Mapping[str, Part] = {"A": "down", "B": "up", "down": "down", "up": "up"}

_KINDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"\.(?:{names})(?:\.[^.]+)?(?:\.weight)?$"), kind)
    for names, kind in (
        (r"lokr_w[12](?:_[ab])?|lokr_t[12]", "LoKr"),
        (r"hada_[wt][12](?:_[ab])?", "LoHa"),
        (r"dora_scale|(?:lora_|dora_)?magnitude(?:_vector)?", "DoRA"),
        (r"boft_[Rs]", "BOFT"),
        (r"oft_[RrsS]|oft_blocks|oft_diag", "OFT"),
        (r"ia3_l|on_input", "IA3"),
        (r"vera_lambda_[bd]|vera_[AB]", "VeRA"),
        (r"[ab][12]", "GLoRA"),
        (r"lora_mid", "LoCon with a core (lora_mid)"),
        (r"randlora_\w+", "RandLoRA"),
        (r"vblora_\w+", "VB-LoRA"),
        (r"gralora_\w+", "GraLoRA"),
        (r"hra_u", "HRA"),
        (r"bone_\w+|miss_\w+", "Bone or MiSS"),
        (r"fourierft_\w+|waveft_\w+", "FourierFT or WaveFT"),
        (r"road_theta|road_alpha", "RoAd"),
        (r"shira_weight", "SHiRA"),
        (r"c3a_kernel", "C3A"),
        (r"lora_E|ranknum", "AdaLoRA"),
        (r"set_weight|reshape_weight", "replacement of weights"),
        (r"scale_weight|weight_scale|comfy_quant|scale_input", "LoRA in scaled 8 bits"),
    )
)


@dataclass(frozen=True, slots=True)
class Named:
    """What a key says: a part of the change of a layer, named as in `Table`, in the adapter of that name."""

    layer: str
    part: Part
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dialect's layer is in ours: the layer, its rows, its width [out, in]; `swap` as in `keys.Row`."""

    layer: str
    rows: slice
    shape: tuple[int, int]
    swap: bool = False

    @property
    def order(self) -> tuple[str, int, int]:
        """By which a file's changes are sorted, so that the same change gives the same sums in every dialect."""
        return self.layer, self.rows.start, self.rows.stop


def parse(key: str) -> Named | None:
    """Read a key as a part of a LoRA. None: it is none."""
    match = _PARTS.fullmatch(key)
    if match is None:
        return None
    half = match["half"] or match["bare"]
    return Named(plain(match["layer"]), _HALVES[half] if half else "alpha", match["adapter"] or "")


def plain(name: str) -> str:
    """Return a layer's name without what programs write around it, with underscores for dots."""
    name = _WRAPPERS.sub("", name)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".", "_").strip("_")


def other_kind(shapes: Mapping[str, tuple[int, ...]], table: Table) -> tuple[str, str] | None:
    """Find (kind, key) of the first key that says that a file with tensors of these `shapes` is no plain LoRA.

    Of full differences (`.diff`) only those of matrices count: biases and norms of a LoRA have no effect here, which
    a warning says.
    """
    for key, shape in shapes.items():
        for pattern, kind in _KINDS:
            if pattern.search(key):
                return kind, key
        layer, _, end = key.rpartition(".")
        if end == "diff" and len(shape) > 1 and table.has(key):
            return "full difference of weights", key
        if end == "weight" and plain(layer) in table.places:
            return "IA3" if len(shape) < 2 else "checkpoint with whole weights", key
    return None


class Table:
    """Every name that a dialect has for a layer of one model → its place."""

    def __init__(self, params: TransformerParams, shapes: Mapping[str, tuple[int, int]]) -> None:
        self._blocks = {
            "double_blocks": params.depth, "transformer_blocks": params.depth,
            "single_blocks": params.depth_single_blocks, "single_transformer_blocks": params.depth_single_blocks,
        }  # fmt: skip
        self.places: Mapping[str, Place] = dict(_places(params, shapes))

    def place(self, named: Named) -> Place | None:
        """Find the layer of ours that is named. None: this model has no such layer."""
        return self.places.get(named.layer)

    def has(self, key: str) -> bool:
        """Whether `key` names this model: one of its layers, or anything inside one of its blocks."""
        name = plain(key[:400])
        block = re.match(r"(double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)_(\d{1,4})_", name)
        if block is not None:
            return int(block[2]) < self._blocks[block[1]]
        words = name.split("_")
        return any("_".join(words[:count]) in self.places for count in range(1, len(words) + 1))


def _places(params: TransformerParams, shapes: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, Place]]:
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
        if row.sizes:  # OneTrainer and OMI: part n of a fused layer is its rows n
            named |= {f"{layer}.{number}": part for number, part in enumerate(parts)}
        for name in _xlabs(layer):
            # x-labs change attention only: of a fused layer, the first three parts.
            qkv = slice(0, 3 * params.hidden_size) if "qkv" in name else whole.rows
            named[name] = Place(layer, qkv, (qkv.stop, width))
        for name, place in named.items():
            yield name.replace(".", "_"), place


def _xlabs(layer: str) -> Iterator[str]:
    block, _, rest = layer.partition(".")
    number, _, rest = rest.partition(".")
    names = {
        "img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1",
        "txt_attn.proj": "proj_lora2", "linear1": "qkv_lora", "linear2": "proj_lora",
    }  # fmt: skip
    if rest in names:
        yield f"{block}.{number}.processor.{names[rest]}"


def doubled(names: Iterable[str]) -> set[str]:
    """Find what a file that speaks two dialects says a second time. Some hold the same change in both, and diffusers
    reads one: its own before all others, and kohya's names for diffusers' layers before those for BFL's.
    """
    listed = list(names)
    for first, rest in (("transformer.", ""), ("lora_transformer_", "lora_unet_")):
        if any(name.startswith(first) for name in listed):
            return {name for name in listed if name.startswith(rest) and not name.startswith(first)}
    return set()
