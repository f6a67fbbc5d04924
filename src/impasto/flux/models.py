"""The table of models: name → architecture, defaults, files, licence.

This file imports neither torch nor anything of ours, so that the server process and the command line can read it.
What comes in: a model name. What goes out: a frozen `ModelSpec`, from which `pipeline` builds the modules.
Numbers of FLUX.1 are those of black-forest-labs/flux, `src/flux/util.py`, and of the published files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

Guidance: TypeAlias = Literal["distilled", "cfg", "none"]
"""How a model follows `guidance_scale`: by an embedded scale, by two passes (with the prompt and without), or not."""

Role: TypeAlias = Literal[
    "transformer",
    "distillation",
    "autoencoder",
    "text_encoder",
    "places",
    "tokenizer",
    "upscaler",
    "clip",
    "t5",
    "image_encoder",
    "redux",
]
"""What a file of a checkpoint is for."""

Sight: TypeAlias = Literal["none", "mask", "canny", "depth", "reference"]
"""Which picture a model was trained to draw after, beside the words: a masked one (Fill), a map of edges (Canny) or of
distances (Depth), one to be changed (Kontext), or none.
"""

TextEncoderKind: TypeAlias = Literal["minilm", "t5+clip"]


@dataclass(frozen=True, slots=True)
class TransformerParams:
    """Shape of a FLUX transformer. Field names are those of BFL's `FluxParams`."""

    in_channels: int
    out_channels: int
    vec_in_dim: int
    context_in_dim: int
    hidden_size: int
    mlp_ratio: float
    num_heads: int
    depth: int
    depth_single_blocks: int
    axes_dim: tuple[int, ...]
    theta: int
    qkv_bias: bool
    guidance_embed: bool

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be divisible by num_heads {self.num_heads}")
        if sum(self.axes_dim) != self.head_dim:
            raise ValueError(f"axes_dim {self.axes_dim} must sum to the head dimension {self.head_dim}")
        if any(dim % 2 for dim in self.axes_dim):
            raise ValueError(f"axes_dim {self.axes_dim} must be even: rope rotates pairs of channels")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def mlp_hidden_size(self) -> int:
        return int(self.hidden_size * self.mlp_ratio)


@dataclass(frozen=True, slots=True)
class AutoencoderParams:
    """Shape of a FLUX autoencoder, and the affine map between its latents and the transformer's.

    `norm_groups` is 32 in every published FLUX (4 channels a group at the widest picture); a narrower autoencoder
    takes fewer groups, since one channel a group would be instance normalisation and lose the brightness.
    """

    in_channels: int
    ch: int
    out_ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    z_channels: int
    scale_factor: float
    shift_factor: float
    norm_groups: int = 32

    def __post_init__(self) -> None:
        if self.ch % self.norm_groups:
            raise ValueError(f"ch {self.ch} must be divisible by norm_groups {self.norm_groups}")

    @property
    def downscale(self) -> int:
        """Pixels a side that one latent covers: 8 for four levels."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True, slots=True)
class T5Params:
    """Shape of a T5 v1.1 encoder; the defaults are T5-XXL's."""

    d_model: int = 4096
    d_ff: int = 10240
    d_kv: int = 64
    num_heads: int = 64
    num_layers: int = 24
    vocab_size: int = 32128


@dataclass(frozen=True, slots=True)
class ClipParams:
    """Shape of a CLIP text encoder; the defaults are those of CLIP-L."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_heads: int = 12
    num_layers: int = 12
    vocab_size: int = 49408
    max_tokens: int = 77


@dataclass(frozen=True, slots=True)
class ReduxParams:
    """Shape of the image encoder (SigLIP so400m, patch 14, 384 pixels) and of Redux behind it."""

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    num_layers: int = 27
    image_size: int = 384
    patch_size: int = 14
    out_features: int = 4096

    @property
    def tokens(self) -> int:
        """729 at full size."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, slots=True)
class Shift:
    """How far a schedule leans towards noise: mu rises linearly from `base` at 256 tokens to `maximum` at 4096."""

    base: float = 0.5
    maximum: float = 1.15

    def mu(self, tokens: int) -> float:
        slope = (self.maximum - self.base) / (4096 - 256)
        return self.base + slope * (tokens - 256)


@dataclass(frozen=True, slots=True)
class NativeSize:
    """The size at which a model draws, for the size that a caller asks.

    `longest` None: the asked size itself, rounded up to `multiple` (FLUX.1). Otherwise the longest side is drawn at
    `longest` pixels; when that leaves the shortest under `shortest`, the picture grows until it is not, up to `limit`
    a side. Extreme ratios end at `limit` x `shortest`, and the pipeline crops. `upscale` is the factor of the
    upscaler behind it.
    """

    multiple: int = 16
    longest: int | None = None
    shortest: int = 64
    limit: int = 160
    upscale: int = 1

    def native(self, height: int, width: int) -> tuple[int, int]:
        """Asked (height, width) in pixels → drawn (height, width), both multiples of `multiple`."""
        if height < 1 or width < 1:
            raise ValueError(f"an image needs at least one pixel a side, not {width}x{height}")
        if self.longest is None:
            return self._up(height), self._up(width)
        ratio = max(height, width) / min(height, width)
        short = self._up(max(self.longest / ratio, self.shortest))
        long = max(self.longest, min(self._up(self.shortest * ratio), self.limit))
        return (short, long) if height <= width else (long, short)

    def _up(self, side: float) -> int:
        # The tolerance keeps 1024/768 from asking for one more row of latents than 4:3 needs.
        return self.multiple * math.ceil(side / self.multiple - 1e-6)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a checkpoint. Embedded files have their sums in the checkpoint's config.json, not here. `optional`:
    checkpoints from before it was thought of do without.
    """

    role: Role
    name: str
    sha256: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """All that is known of a model before its weights are read.

    `memory` is an estimate in bytes of weights plus working set at the dtype the model is usually run in. `threads` of
    the CPU suit it best; 0: all cores. `embedded` models come with the package; the others are looked for in the user's
    folders, or fetched from `source`, a repository of the hub; `gated`: its licence must be accepted there first.
    `image_prompts`: whether the model can take after a picture by itself (FLUX.1 needs Redux beside it for that).
    `beside`: the model in whose folder it may lie, sharing all but what distilling changed with it; it is loaded with
    that one and draws for the endpoints' models of `draws_for`, in up to `default_steps`.
    """

    name: str
    version: str
    transformer: TransformerParams
    autoencoder: AutoencoderParams
    text_encoder: TextEncoderKind
    max_text_tokens: int
    default_steps: int
    default_guidance: float
    guidance: Guidance
    shift: Shift | None
    native_size: NativeSize
    files: tuple[ModelFile, ...]
    licence: str
    memory: int
    threads: int = 0
    embedded: bool = False
    image_prompts: bool = False
    sight: Sight = "none"
    source: str = ""
    gated: bool = False
    beside: str = ""
    draws_for: tuple[str, ...] = ()

    def file(self, role: Role) -> str:
        """Under which name the part of that role is published."""
        return next(file.name for file in self.files if file.role == role)


@dataclass(frozen=True, slots=True)
class AddOn:
    """Weights that give a model another sense: Redux, which lets every FLUX.1 take after pictures."""

    name: str
    params: ReduxParams
    files: tuple[ModelFile, ...]
    licence: str
    memory: int
    source: str
    gated: bool = True


_FLUX1_AUTOENCODER = AutoencoderParams(
    in_channels=3,
    ch=128,
    out_ch=3,
    ch_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    z_channels=16,
    scale_factor=0.3611,
    shift_factor=0.1159,
)

_FLUX1_AE = ModelFile(
    "autoencoder", "ae.safetensors", "afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38"
)


_CLIP = ModelFile("clip", "text_encoder/model.safetensors")
_T5 = ModelFile("t5", "text_encoder_2")
_DEV_LICENCE = "FLUX.1 [dev] Non-Commercial License"


def _flux1_transformer(*, in_channels: int = 64, guidance_embed: bool = True) -> TransformerParams:
    return TransformerParams(
        in_channels=in_channels,
        out_channels=64,
        vec_in_dim=768,
        context_in_dim=4096,
        hidden_size=3072,
        mlp_ratio=4.0,
        num_heads=24,
        depth=19,
        depth_single_blocks=38,
        axes_dim=(16, 56, 56),
        theta=10_000,
        qkv_bias=True,
        guidance_embed=guidance_embed,
    )


IMPASTO_MINI = ModelSpec(
    name="impasto-mini",
    version="1",
    transformer=TransformerParams(
        in_channels=64,
        out_channels=64,
        vec_in_dim=384,
        context_in_dim=384,
        hidden_size=384,
        mlp_ratio=4.0,
        num_heads=6,
        depth=2,
        depth_single_blocks=6,
        axes_dim=(8, 28, 28),
        theta=10_000,
        qkv_bias=True,
        guidance_embed=False,
    ),
    # Measured by the training: the checkpoint's config.json overrides them, and the sizes, too.
    autoencoder=AutoencoderParams(
        in_channels=3,
        ch=16,
        out_ch=3,
        ch_mult=(1, 2, 4, 8),
        num_res_blocks=1,
        z_channels=16,
        scale_factor=1.0,
        shift_factor=0.0,
        norm_groups=2,
    ),
    text_encoder="minilm",
    max_text_tokens=32,
    default_steps=20,
    default_guidance=3.5,
    # as it is trained; the weights that are shipped say that they are `distilled` (see `checkpoint`)
    guidance="cfg",
    shift=Shift(),
    native_size=NativeSize(longest=256, shortest=128, limit=304, upscale=4),
    files=(
        ModelFile("transformer", "transformer.safetensors"),
        ModelFile("distillation", "guidance.safetensors", optional=True),
        ModelFile("autoencoder", "autoencoder.safetensors"),
        ModelFile("text_encoder", "text_encoder.safetensors"),
        ModelFile("places", "text_places.safetensors", optional=True),
        ModelFile("upscaler", "upscaler.safetensors"),
        ModelFile("tokenizer", "tokenizer.json"),
    ),
    licence="Apache-2.0",
    memory=450 * 2**20,
    # A second thread takes 40 % of the time away where it is free, and may cost twentyfold where it is not
    # (benchmarks/LOG.md). And a picture's bytes depend on the number of threads: a fixed one makes them the same on
    # 2 cores and on 64.
    threads=1,
    embedded=True,
    image_prompts=True,
)


def distilled(spec: ModelSpec) -> ModelSpec:
    """The model when it follows an embedded scale in one pass, instead of two passes."""
    return replace(spec, transformer=replace(spec.transformer, guidance_embed=True), guidance="distilled")


IMPASTO_MINI_SCHNELL = replace(
    distilled(IMPASTO_MINI),
    name="impasto-mini-schnell",
    default_steps=4,
    files=tuple(
        ModelFile("distillation", "schnell.safetensors") if file.role == "distillation" else file
        for file in IMPASTO_MINI.files
    ),
    embedded=False,
    beside=IMPASTO_MINI.name,
    draws_for=("flux-schnell",),
)
"""Four steps of one pass: impasto-mini distilled (`training.distil`)."""

FLUX1_DEV = ModelSpec(
    name="flux.1-dev",
    version="1",
    transformer=_flux1_transformer(),
    autoencoder=_FLUX1_AUTOENCODER,
    text_encoder="t5+clip",
    max_text_tokens=512,
    default_steps=28,
    default_guidance=3.5,
    guidance="distilled",
    shift=Shift(),
    native_size=NativeSize(),
    files=(
        ModelFile(
            "transformer", "flux1-dev.safetensors", "4610115bb0c89560703c892c59ac2742fa821e60ef5871b33493ba544683abd7"
        ),
        _FLUX1_AE,
        _CLIP,
        _T5,
    ),
    licence=_DEV_LICENCE,
    memory=36 * 2**30,
    source="black-forest-labs/FLUX.1-dev",
    gated=True,
)

FLUX1_SCHNELL = replace(
    FLUX1_DEV,
    name="flux.1-schnell",
    transformer=_flux1_transformer(guidance_embed=False),
    max_text_tokens=256,
    default_steps=4,
    default_guidance=0.0,
    guidance="none",
    shift=None,
    files=(
        ModelFile(
            "transformer",
            "flux1-schnell.safetensors",
            "9403429e0052277ac2a87ad800adece5481eecefd9ed334e1f348723621d2a0a",
        ),
        *FLUX1_DEV.files[1:],
    ),
    licence="Apache-2.0",
    source="black-forest-labs/FLUX.1-schnell",
)


def _dev(name: str, *, in_channels: int = 64, steps: int = 28, guidance: float, sight: Sight = "none") -> ModelSpec:
    """A sibling of [dev]: the same network but for the channels that go in, trained on."""
    return replace(
        FLUX1_DEV,
        name=f"flux.1-{name.lower()}-dev",
        transformer=_flux1_transformer(in_channels=in_channels),
        default_steps=steps,
        default_guidance=guidance,
        files=(ModelFile("transformer", f"flux1-{name.lower()}-dev.safetensors"), *FLUX1_DEV.files[1:]),
        source=f"black-forest-labs/FLUX.1-{name}-dev",
        sight=sight,
    )


# Steps and guidance: BFL's own defaults for Fill, Canny and Depth; those of the model cards for Kontext and Krea.
FLUX1_FILL = _dev("Fill", in_channels=384, steps=50, guidance=30.0, sight="mask")
FLUX1_CANNY = _dev("Canny", in_channels=128, steps=50, guidance=30.0, sight="canny")
FLUX1_DEPTH = _dev("Depth", in_channels=128, steps=50, guidance=10.0, sight="depth")
FLUX1_KONTEXT = _dev("Kontext", guidance=2.5, sight="reference")
FLUX1_KREA = _dev("Krea", guidance=4.5)

FLUX1_REDUX = AddOn(
    name="flux.1-redux-dev",
    params=ReduxParams(),
    files=(
        ModelFile("redux", "flux1-redux-dev.safetensors"),
        ModelFile("image_encoder", "image_encoder/model.safetensors"),
    ),
    licence=_DEV_LICENCE,
    memory=2 * 2**30,
    source="black-forest-labs/FLUX.1-Redux-dev",
)

MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        IMPASTO_MINI,
        FLUX1_DEV,
        FLUX1_SCHNELL,
        FLUX1_KREA,
        FLUX1_KONTEXT,
        FLUX1_FILL,
        FLUX1_CANNY,
        FLUX1_DEPTH,
    )
}
ADD_ONS: dict[str, AddOn] = {FLUX1_REDUX.name: FLUX1_REDUX}
SIBLINGS: dict[str, ModelSpec] = {IMPASTO_MINI_SCHNELL.name: IMPASTO_MINI_SCHNELL}
"""Models that may lie beside another one."""


def usual(model: str, loaded: Sequence[str]) -> str | None:
    """Which of the `loaded` models draws for an endpoint's `model` when nobody has said: one that was made for it, else
    the first.
    """
    made_for = (name for name in loaded if name in SIBLINGS and model in SIBLINGS[name].draws_for)
    return next(iter((*made_for, *loaded)), None)
