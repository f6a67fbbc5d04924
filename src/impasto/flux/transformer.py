"""The FLUX transformer: double-stream blocks, then single-stream blocks, steered by modulation.

What comes in: noisy image tokens, text tokens, their positions, the time, the pooled text vector. What goes out: the
velocity of the flow at every image token. Attribute names equal the keys of BFL's checkpoints; `img`, `txt`, `vec`,
`pe` are BFL's letters.

`forward` is four sentences: the text stream (`context`), the positions (`positions`), the modulation of every block
(`modulate`), and the blocks themselves (`velocity`). The first three do not depend on the latents, so the pipeline
computes them once a request, for all steps; `forward` does all four, for training and tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.attention import QKNorm, attention, rope, split_heads
from impasto.flux.linear import Linear
from impasto.flux.models import TransformerParams


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of `t` [...] in units of 1/1000 → [..., dim], cosines first, float32."""
    half = dim // 2
    freqs = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    args = 1000.0 * t.float()[..., None] * freqs
    return torch.cat((args.cos(), args.sin()), dim=-1)


class MLPEmbedder(nn.Module):
    """Linear, SiLU, linear: lifts time, guidance or the pooled text to the model's width."""

    def __init__(self, in_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.in_layer = Linear(in_dim, hidden_size)
        self.out_layer = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_layer(x.to(self.in_layer.weight.dtype))
        return self.out_layer(F.silu(x))


class Modulation(nn.Module):
    """The conditioning vector's shift, scale and gate, twice for double streams: [..., D] → [..., 1, 3 D | 6 D]."""

    def __init__(self, hidden_size: int, *, double: bool) -> None:
        super().__init__()
        self.lin = Linear(hidden_size, (6 if double else 3) * hidden_size)

    def forward(self, vec: Tensor) -> Tensor:
        return self.lin(F.silu(vec)).unsqueeze(-2)


def modulated(x: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the conditioning's affine map: [B, L, D] → [B, L, D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class SelfAttention(nn.Module):
    """The weights of one stream's attention; the two streams of a block attend together."""

    def __init__(self, hidden_size: int, num_heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.norm = QKNorm(hidden_size // num_heads)
        self.proj = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(self.qkv(x), self.num_heads)
        q, k = self.norm(q, k)
        return q, k, v


def mlp(hidden_size: int, mlp_hidden_size: int) -> nn.Sequential:
    return nn.Sequential(
        Linear(hidden_size, mlp_hidden_size), nn.GELU(approximate="tanh"), Linear(mlp_hidden_size, hidden_size)
    )


class DoubleStreamBlock(nn.Module):
    """Image and text keep their own weights and meet in one attention."""

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        d, heads, bias = params.hidden_size, params.num_heads, params.qkv_bias
        self.img_mod = Modulation(d, double=True)
        self.img_attn = SelfAttention(d, heads, qkv_bias=bias)
        self.img_mlp = mlp(d, params.mlp_hidden_size)
        self.txt_mod = Modulation(d, double=True)
        self.txt_attn = SelfAttention(d, heads, qkv_bias=bias)
        self.txt_mlp = mlp(d, params.mlp_hidden_size)

    def forward(self, img: Tensor, txt: Tensor, mod: tuple[Tensor, Tensor], pe: Tensor) -> tuple[Tensor, Tensor]:
        """`img` [B, L, D], `txt` [B, T, D], `mod` (image, text) each [B, 1, 6 D] → (`img`, `txt`), same shapes."""
        img_shift1, img_scale1, img_gate1, img_shift2, img_scale2, img_gate2 = mod[0].chunk(6, dim=-1)
        txt_shift1, txt_scale1, txt_gate1, txt_shift2, txt_scale2, txt_gate2 = mod[1].chunk(6, dim=-1)

        img_q, img_k, img_v = self.img_attn(modulated(img, shift=img_shift1, scale=img_scale1))
        txt_q, txt_k, txt_v = self.txt_attn(modulated(txt, shift=txt_shift1, scale=txt_scale1))
        q, k, v = (torch.cat(pair, dim=2) for pair in ((txt_q, img_q), (txt_k, img_k), (txt_v, img_v)))
        txt_attn, img_attn = attention(q, k, v, pe).split((txt.shape[1], img.shape[1]), dim=1)

        img = torch.addcmul(img, img_gate1, self.img_attn.proj(img_attn))
        img = torch.addcmul(img, img_gate2, self.img_mlp(modulated(img, shift=img_shift2, scale=img_scale2)))
        txt = torch.addcmul(txt, txt_gate1, self.txt_attn.proj(txt_attn))
        txt = torch.addcmul(txt, txt_gate2, self.txt_mlp(modulated(txt, shift=txt_shift2, scale=txt_scale2)))
        return img, txt


class SingleStreamBlock(nn.Module):
    """Text and image as one sequence; attention and MLP side by side in two wide linears (Dehghani et al. 2023)."""

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        d, m = params.hidden_size, params.mlp_hidden_size
        self.num_heads = params.num_heads
        self.widths = (3 * d, m)
        self.linear1 = Linear(d, 3 * d + m)
        self.linear2 = Linear(d + m, d)
        self.norm = QKNorm(params.head_dim)
        self.modulation = Modulation(d, double=False)

    def forward(self, x: Tensor, mod: Tensor, pe: Tensor) -> Tensor:
        """`x` [B, T + L, D], `mod` [B, 1, 3 D] → [B, T + L, D]."""
        shift, scale, gate = mod.chunk(3, dim=-1)
        qkv, hidden = self.linear1(modulated(x, shift=shift, scale=scale)).split(self.widths, dim=-1)
        q, k, v = split_heads(qkv, self.num_heads)
        q, k = self.norm(q, k)
        attn = attention(q, k, v, pe)
        return torch.addcmul(x, gate, self.linear2(torch.cat((attn, F.gelu(hidden, approximate="tanh")), dim=-1)))


class LastLayer(nn.Module):
    """Modulated layer norm and a linear back to the channels of a token."""

    def __init__(self, hidden_size: int, out_channels: int) -> None:
        super().__init__()
        self.linear = Linear(hidden_size, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, mod: Tensor) -> Tensor:
        shift, scale = mod.chunk(2, dim=-1)
        return self.linear(modulated(x, shift=shift, scale=scale))


@dataclass(frozen=True, slots=True)
class Modulations:
    """Every block's modulation: for one step [B, 1, n D], or for all steps of a request [S, B, 1, n D] (then take
    `at(step)`).
    """

    double: tuple[tuple[Tensor, Tensor], ...]
    single: tuple[Tensor, ...]
    final: Tensor

    def at(self, step: int) -> Modulations:
        return Modulations(
            double=tuple((img[step], txt[step]) for img, txt in self.double),
            single=tuple(mod[step] for mod in self.single),
            final=self.final[step],
        )

    def row(self, b: int) -> Modulations:
        """One step's modulation of one row of the batch."""
        return Modulations(
            double=tuple((img[b : b + 1], txt[b : b + 1]) for img, txt in self.double),
            single=tuple(mod[b : b + 1] for mod in self.single),
            final=self.final[b : b + 1],
        )


class Flux(nn.Module):
    """A rectified-flow transformer on sequences of packed latents."""

    def __init__(self, params: TransformerParams) -> None:
        super().__init__()
        self.params = params
        d = params.hidden_size
        self.img_in = Linear(params.in_channels, d)
        self.time_in = MLPEmbedder(256, d)
        self.vector_in = MLPEmbedder(params.vec_in_dim, d)
        self.guidance_in = MLPEmbedder(256, d) if params.guidance_embed else None
        self.txt_in = Linear(params.context_in_dim, d)
        self.double_blocks = nn.ModuleList(DoubleStreamBlock(params) for _ in range(params.depth))
        self.single_blocks = nn.ModuleList(SingleStreamBlock(params) for _ in range(params.depth_single_blocks))
        self.final_layer = LastLayer(d, params.out_channels)

    def forward(
        self,
        img: Tensor,
        img_ids: Tensor,
        txt: Tensor,
        txt_ids: Tensor,
        timesteps: Tensor,
        y: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Velocity [B, L, out_channels] at the image tokens.

        `img` [B, L, in_channels] packed latents; `txt` [B, T, context_in_dim]; `img_ids` [L, 3] or [B, L, 3] and
        `txt_ids` alike: positions; `timesteps` [B] sigmas from 1 (noise) to 0; `y` [B, vec_in_dim] pooled text;
        `guidance` [B], needed exactly by models with a guidance embedder (ValueError without it).
        """
        vec = self.vector(timesteps, y, guidance)
        return self.velocity(img, self.context(txt), self.positions(txt_ids, img_ids), self.modulate(vec))

    def vector(self, timesteps: Tensor, y: Tensor, guidance: Tensor | None = None) -> Tensor:
        """The conditioning vector of one or many times: `timesteps` [..., B], `y` [B, vec_in_dim] → [..., B, D]."""
        vec = self.time_in(timestep_embedding(timesteps, 256))
        if self.guidance_in is not None:
            if guidance is None:
                raise ValueError("this model embeds its guidance scale: `guidance` must be given")
            vec = vec + self.guidance_in(timestep_embedding(guidance, 256))
        return vec + self.vector_in(y)

    def context(self, txt: Tensor) -> Tensor:
        """Text states [B, T, context_in_dim] → the text stream [B, T, D]."""
        return self.txt_in(txt.to(self.txt_in.weight.dtype))

    def positions(self, txt_ids: Tensor, img_ids: Tensor) -> Tensor:
        """Positions of the joint sequence, text first → `pe` for every attention (see `attention.rope`)."""
        return rope(torch.cat((txt_ids, img_ids), dim=-2), self.params.axes_dim, self.params.theta)

    def modulate(self, vec: Tensor) -> Modulations:
        """Every block's modulation for conditioning vectors [..., B, D].

        A quarter of FLUX.1's weights are read here, which is why the pipeline calls it once for all steps.
        """
        doubles = cast("Iterable[DoubleStreamBlock]", self.double_blocks)
        singles = cast("Iterable[SingleStreamBlock]", self.single_blocks)
        return Modulations(
            double=tuple((block.img_mod(vec), block.txt_mod(vec)) for block in doubles),
            single=tuple(block.modulation(vec) for block in singles),
            final=self.final_layer.adaLN_modulation(vec).unsqueeze(-2),
        )

    def velocity(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations) -> Tensor:
        """All blocks: image tokens [B, L, in_channels], text stream [B, T, D] → velocity [B, L, out_channels]."""
        x, txt = self.first(self.tokens(img), txt, pe, mods)
        return self.last(self.rest(x, txt, pe, mods), mods)

    def tokens(self, img: Tensor) -> Tensor:
        """Image tokens [B, L, in_channels] → the image stream [B, L, D]."""
        return self.img_in(img.to(self.img_in.weight.dtype))

    def first(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations) -> tuple[Tensor, Tensor]:
        """The first block: image and text stream → the same, changed."""
        return self.double_blocks[0](img, txt, mods.double[0], pe)

    def rest(self, img: Tensor, txt: Tensor, pe: Tensor, mods: Modulations) -> Tensor:
        """All blocks behind the first: → the image stream [B, L, D]."""
        for block, mod in zip(self.double_blocks[1:], mods.double[1:], strict=True):
            img, txt = block(img, txt, mod, pe)
        x = torch.cat((txt, img), dim=1)
        for block, mod in zip(self.single_blocks, mods.single, strict=True):
            x = block(x, mod, pe)
        return x[:, txt.shape[1] :]

    def last(self, img: Tensor, mods: Modulations) -> Tensor:
        """The image stream behind all blocks → velocity [B, L, out_channels]."""
        return self.final_layer(img, mods.final)
