"""How many bytes a model takes, counted before anything is read: weights on the meta device, a picture in the making
by the size of what is alive at its widest moment.

The figures of `working` are checked against the live bytes of a real run in `tests/flux/test_footprint.py`.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import nn

from impasto.flux import latents as lat
from impasto.flux import offload, quantise, shapes, t5clip, weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.checks import dry_load
from impasto.flux.encoders import T5
from impasto.flux.models import AutoencoderParams, ModelSpec, T5Params, TransformerParams
from impasto.flux.residency import Footprint, Kept, Needs, Residency
from impasto.flux.stored import Tensors
from impasto.flux.transformer import Flux

SLACK = 256 * 2**20
"""Workspaces of the matrix and convolution libraries, and what the allocator cannot use between its pieces."""

TEXT_PARTS = ("clip", "t5")
"""What only reads prompts."""

SCALE_BYTES = 4


def transformer(params: TransformerParams, *, itemsize: int, narrow: Set[str] = frozenset()) -> Footprint:
    """Bytes of the transformer's weights at `itemsize` bytes each; `narrow`: keys that are held in one byte each and a
    scale for each row.
    """
    with torch.device("meta"):
        model = Flux(params)
    every = Residency(modulation_on_host=True, streamed=params.depth + params.depth_single_blocks)
    modulations, blocks = offload.guests(model, every)

    def moving(prefix: str, module: nn.Module) -> int:
        return sum(
            parameter.numel() * (1 if f"{prefix}.{name}" in narrow else itemsize)
            for name, parameter in module.named_parameters()
            if offload.visits(name, parameter)
        )

    modulation = tuple(moving(*item) for item in modulations.items())
    rest = tuple(moving(*item) for item in blocks.items())
    scales = sum(SCALE_BYTES * model.get_parameter(key).shape[0] for key in narrow)
    whole = sum(parameter.numel() * (1 if name in narrow else itemsize) for name, parameter in model.named_parameters())
    widened = itemsize * max((model.get_parameter(key).numel() for key in narrow), default=0)
    return Footprint(whole + scales - sum(modulation) - sum(rest), modulation, rest, widened)


def text(params: T5Params, *, tokens: int, itemsize: int) -> tuple[int, int]:
    """Bytes of T5's weights that can live on the host, and what it takes on the device to read `tokens` from there: the
    two largest guests, and a feed-forward at its widest, where both of its halves, their product and one more of what
    the activation is made of are alive beside the states.
    """
    with weights.on_meta():
        model = T5(params)
    away = offload.text_away(model)
    blocks = [
        sum(p.numel() for name, p in b.named_parameters() if offload.visits(name, p)) for b in model.encoder.block
    ]
    states = tokens * (4 * params.d_ff + 4 * params.d_model) + params.num_heads * tokens**2
    moved = sum(model.get_parameter(key).numel() for key in away)
    return itemsize * moved, itemsize * (2 * max(blocks) + states) + SLACK


def working(spec: ModelSpec, *, height: int, width: int, text_tokens: int, itemsize: int) -> int:
    """Bytes that a picture of that size takes beside the weights while it is made: the wider of a step and of decoding,
    which do not happen at once.
    """
    native = spec.native_size.native(height, width)
    tokens = text_tokens + lat.token_count(*native)
    wider = max(step(spec.transformer, tokens=tokens, itemsize=itemsize), decoding(spec.autoencoder, native, itemsize))
    return wider + SLACK


def step(params: TransformerParams, *, tokens: int, itemsize: int) -> int:
    """One pass of one sample. A single block is widest when its second linear runs: the output of the first one
    (3 d + m), its activation (m), attention (d), both joined (d + m), what came in, twice, and what is made and added
    to it (4 d).
    """
    d, m = params.hidden_size, params.mlp_hidden_size
    positions = 4 * params.head_dim
    return tokens * (itemsize * (9 * d + 3 * m) + positions)


def decoding(params: AutoencoderParams, native: tuple[int, int], itemsize: int) -> int:
    """The autoencoder's last level, per pixel: what the first block gets, its norm and its activation, all as wide as
    the level above, and what its convolution makes.
    """
    above = params.ch * params.ch_mult[min(1, len(params.ch_mult) - 1)]
    return native[0] * native[1] * itemsize * (3 * above + params.ch)


def needs(checkpoint: Checkpoint, *, device: torch.dtype, side: int) -> Needs:
    """What a checkpoint takes when the device computes in `device` and pictures of `side` pixels squared are to be
    drawn. Reads headers only. Raises ModelUnavailable or WeightsError when it is not whole.
    """
    spec = checkpoint.spec
    if spec.embedded:
        whole = Footprint(spec.memory, (), ())
        every: dict[Kept, Footprint] = {"full": whole, "fp8": whole, "int8": whole}
        return Needs(name=spec.name, transformer=every, text=0, text_on_host=0, others=0, working=0)
    parts = {part.role: part.parameters for part in dry_load(checkpoint)}
    prompts = sum(parts.get(role, 0) for role in TEXT_PARTS)
    away, reading = 0, 0
    if "t5" in parts:
        t5 = shapes.t5(t5clip.t5_tensors(checkpoint))
        away, reading = text(t5, tokens=spec.max_text_tokens, itemsize=device.itemsize)
    tensors = weights.transformer_tensors(checkpoint)
    kinds: tuple[Kept, ...] = ("full", "fp8", "int8")
    stored = quantise.stored_as(tensors)
    return Needs(
        name=spec.name,
        transformer={
            kept: transformer(spec.transformer, itemsize=device.itemsize, narrow=quantise.layers(tensors, kept))
            for kept in kinds
        },
        text=prompts * device.itemsize,
        text_on_host=away,
        reading=reading,
        others=(sum(parts.values()) - prompts - parts["transformer"]) * device.itemsize,
        working=working(spec, height=side, width=side, text_tokens=spec.max_text_tokens, itemsize=device.itemsize),
        stored=stored,
        mappable=all(_is_mappable(tensors, key, device) for key in quantise.layers(tensors, "int8")),
    )


def _is_mappable(tensors: Tensors, key: str, dtype: torch.dtype) -> bool:
    narrow = tensors.is_narrow(key)
    return tensors.is_mapped(key, narrow=narrow) and (narrow or tensors.dtype(key) == dtype)
