"""How many bytes a model takes, counted before anything is read: weights on the meta device, a picture in the making
by the size of what is alive at its widest moment.

The figures of `working` are checked against the live bytes of a real run in `tests/flux/test_footprint.py`.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import nn

from impasto.flux import latents as lat
from impasto.flux import offload
from impasto.flux.models import AutoencoderParams, ModelSpec, TransformerParams
from impasto.flux.residency import Footprint, Residency
from impasto.flux.transformer import Flux

SLACK = 256 * 2**20
"""Workspaces of the matrix and convolution libraries, and what the allocator cannot use between its pieces."""

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
    return Footprint(whole + scales - sum(modulation) - sum(rest), modulation, rest)


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
