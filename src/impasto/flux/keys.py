"""The two dialects of checkpoint keys, as one table that runs both ways.

BFL's single files name tensors as our modules do. A diffusers folder names them otherwise, keeps query, key and value
apart, and exchanges two halves of the last modulation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.flux.models import AutoencoderParams, TransformerParams
from impasto.flux.stored import InMemory, Shape, Tensors


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of BFL's dialect and the diffusers tensors it is made of.

    `sizes`: rows of each part along dimension 0, for splitting a fused linear. `swap`: the halves are exchanged (BFL
    keeps shift, scale where diffusers keeps scale, shift). `conv`: BFL's 1x1 convolution is a linear in diffusers.
    """

    bfl: str
    diffusers: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    swap: bool = False
    conv: bool = False

    def join(self, parts: list[Tensor]) -> Tensor:
        if len({part.dtype for part in parts}) > 1:  # 8 bits are not promoted by themselves
            parts = [part.float() for part in parts]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        whole = torch.cat(whole.chunk(2)[::-1]) if self.swap else whole
        return whole[..., None, None] if self.conv and whole.ndim == 2 else whole

    def split(self, whole: Tensor) -> list[Tensor]:
        whole = whole[..., 0, 0] if self.conv and whole.ndim == 4 else whole
        whole = torch.cat(whole.chunk(2)[::-1]) if self.swap else whole
        return list(whole.split(self.sizes)) if self.sizes else [whole]


class Converted(Tensors):
    """Tensors in BFL's dialect, whichever they are stored in; renamed and fused when they are asked for.

    Keys that the table does not know pass unchanged, so that the strict check names them.
    """

    def __init__(self, tensors: Tensors, rows: Iterable[Row]) -> None:
        self._tensors = tensors
        self._rows = {row.bfl: row for row in rows if all(key in tensors for key in row.diffusers)}
        taken = {key for row in self._rows.values() for key in row.diffusers}
        rest = {key: (key,) for key in tensors if key not in taken}
        self._stored = {bfl: row.diffusers for bfl, row in self._rows.items()} | rest

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._rows:
            return self._tensors[key]
        row = self._rows[key]
        return row.join([self._tensors[part] for part in row.diffusers])

    def _names(self) -> Mapping[str, object]:
        return self._stored

    def shape(self, key: str) -> Shape:
        if key not in self._rows:
            return self._tensors.shape(key)
        row = self._rows[key]
        parts = [torch.empty(self._tensors.shape(part), device="meta") for part in row.diffusers]
        return tuple(row.join(parts).shape)

    def dtype(self, key: str) -> torch.dtype:
        return self._tensors.dtype(self._stored[key][0])

    def narrow(self, key: str) -> tuple[Tensor, Tensor] | None:
        if not self.is_narrow(key):
            return None
        found = [pair for part in self._stored[key] if (pair := self._tensors.narrow(part)) is not None]
        weights, scales = zip(*found, strict=True)
        return (torch.cat(weights), torch.cat(scales)) if len(found) > 1 else found[0]

    def is_narrow(self, key: str) -> bool:
        plain = key not in self._rows or not (self._rows[key].swap or self._rows[key].conv)
        stored = self._stored[key]
        alike = len({self._tensors.dtype(part) for part in stored}) == 1
        return plain and alike and all(self._tensors.is_narrow(part) for part in stored)

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        row = self._rows.get(key)
        plain = row is None or (len(row.diffusers) == 1 and not row.swap)
        return plain and self._tensors.is_mapped(self._stored[key][0], narrow=narrow)

    def size(self, key: str) -> int:
        return sum(self._tensors.size(part) for part in self._stored[key])

    def done(self, key: str) -> None:
        for part in self._stored[key]:
            self._tensors.done(part)


def from_diffusers(tensors: Mapping[str, Tensor], rows: Iterable[Row]) -> dict[str, Tensor]:
    """A diffusers state dict in BFL's dialect, all at once."""
    return dict(Converted(InMemory(tensors), rows))


def to_diffusers(tensors: Mapping[str, Tensor], rows: Iterable[Row]) -> dict[str, Tensor]:
    """The inverse of `from_diffusers`."""
    rest, out = dict(tensors), dict[str, Tensor]()
    for row in rows:
        if row.bfl in rest:
            out.update(zip(row.diffusers, row.split(rest.pop(row.bfl)), strict=True))
    return out | rest


def transformer_rows(params: TransformerParams) -> Iterator[Row]:
    """BFL's `flux1-*.safetensors` ↔ diffusers' `FluxTransformer2DModel`."""
    d, m = params.hidden_size, params.mlp_hidden_size
    yield from _linear("img_in", "x_embedder")
    yield from _linear("txt_in", "context_embedder")
    embedders = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}
    for ours, theirs in embedders.items():
        yield from _linear(f"{ours}.in_layer", f"time_text_embed.{theirs}.linear_1")
        yield from _linear(f"{ours}.out_layer", f"time_text_embed.{theirs}.linear_2")
    for i in range(params.depth):
        a, b = f"double_blocks.{i}", f"transformer_blocks.{i}"
        for ours, context, query, qkv, proj in (
            ("img", "", "", "to_{}", "to_out.0"),
            ("txt", "_context", "added_", "add_{}_proj", "to_add_out"),
        ):
            yield from _linear(f"{a}.{ours}_mod.lin", f"{b}.norm1{context}.linear")
            parts = tuple(f"{b}.attn.{qkv.format(letter)}" for letter in "qkv")
            yield from _linear(f"{a}.{ours}_attn.qkv", *parts, sizes=(d, d, d))
            yield Row(f"{a}.{ours}_attn.norm.query_norm.scale", (f"{b}.attn.norm_{query}q.weight",))
            yield Row(f"{a}.{ours}_attn.norm.key_norm.scale", (f"{b}.attn.norm_{query}k.weight",))
            yield from _linear(f"{a}.{ours}_attn.proj", f"{b}.attn.{proj}")
            yield from _linear(f"{a}.{ours}_mlp.0", f"{b}.ff{context}.net.0.proj")
            yield from _linear(f"{a}.{ours}_mlp.2", f"{b}.ff{context}.net.2")
    for i in range(params.depth_single_blocks):
        a, b = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        yield from _linear(f"{a}.modulation.lin", f"{b}.norm.linear")
        parts = (*(f"{b}.attn.to_{letter}" for letter in "qkv"), f"{b}.proj_mlp")
        yield from _linear(f"{a}.linear1", *parts, sizes=(d, d, d, m))
        yield Row(f"{a}.norm.query_norm.scale", (f"{b}.attn.norm_q.weight",))
        yield Row(f"{a}.norm.key_norm.scale", (f"{b}.attn.norm_k.weight",))
        yield from _linear(f"{a}.linear2", f"{b}.proj_out")
    yield from _linear("final_layer.linear", "proj_out")
    yield from _linear("final_layer.adaLN_modulation.1", "norm_out.linear", swap=True)


def autoencoder_rows(params: AutoencoderParams) -> Iterator[Row]:
    """BFL's `ae.safetensors` ↔ diffusers' `AutoencoderKL`."""
    levels = len(params.ch_mult)
    for half in ("encoder", "decoder"):
        yield from _linear(f"{half}.conv_in", f"{half}.conv_in")
        yield from _linear(f"{half}.conv_out", f"{half}.conv_out")
        yield from _linear(f"{half}.norm_out", f"{half}.conv_norm_out")
        yield from _resnet(f"{half}.mid.block_1", f"{half}.mid_block.resnets.0")
        yield from _resnet(f"{half}.mid.block_2", f"{half}.mid_block.resnets.1")
        a, b = f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0"
        yield from _linear(f"{a}.norm", f"{b}.group_norm")
        for letter in "qkv":
            yield from _linear(f"{a}.{letter}", f"{b}.to_{letter}", conv=True)
        yield from _linear(f"{a}.proj_out", f"{b}.to_out.0", conv=True)
    for level in range(levels):
        # diffusers numbers the decoder's levels in the order of computation, BFL from the finest.
        down = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        up = f"decoder.up.{level}", f"decoder.up_blocks.{levels - 1 - level}"
        for j in range(params.num_res_blocks):
            yield from _resnet(f"{down[0]}.block.{j}", f"{down[1]}.resnets.{j}")
        for j in range(params.num_res_blocks + 1):
            yield from _resnet(f"{up[0]}.block.{j}", f"{up[1]}.resnets.{j}")
        yield from _linear(f"{down[0]}.downsample.conv", f"{down[1]}.downsamplers.0.conv")
        yield from _linear(f"{up[0]}.upsample.conv", f"{up[1]}.upsamplers.0.conv")


def _resnet(bfl: str, diffusers: str) -> Iterator[Row]:
    for layer in ("norm1", "conv1", "norm2", "conv2"):
        yield from _linear(f"{bfl}.{layer}", f"{diffusers}.{layer}")
    yield from _linear(f"{bfl}.nin_shortcut", f"{diffusers}.conv_shortcut")


def _linear(
    bfl: str, *diffusers: str, sizes: tuple[int, ...] = (), swap: bool = False, conv: bool = False
) -> Iterator[Row]:
    for leaf in ("weight", "bias"):
        yield Row(f"{bfl}.{leaf}", tuple(f"{key}.{leaf}" for key in diffusers), sizes=sizes, swap=swap, conv=conv)
