"""Rotary positions, query/key normalisation, and attention itself.

Queries, keys and values are [B, heads, L, head_dim]. `pe` is what `rope` returns: cosine and sine of every position
and channel pair, computed once per request and shared by all blocks and steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FEW_TOKENS = 128
"""Up to here a CPU takes matmul-softmax-matmul faster than flash attention: in bf16, and in every backward pass."""


def rope(ids: Tensor, axes_dim: tuple[int, ...], theta: int) -> Tensor:
    """Rotation angles for positions `ids` [..., L, axes] → [..., 1, L, head_dim / 2, 2] (cosine, sine), float32.

    Each axis of a position turns its own `axes_dim[i]` channels. Angles are computed in float64, as they were in
    training: in float32 the fast channels of a far position lose digits.
    """
    angles: list[Tensor] = []
    for axis, dim in enumerate(axes_dim):
        exponent = torch.arange(0, dim, 2, dtype=torch.float64, device=ids.device) / dim
        omega = 1.0 / theta**exponent
        angles.append(ids[..., axis].double()[..., None] * omega)
    angle = torch.cat(angles, dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).float().unsqueeze(-4)


def apply_rope(x: Tensor, pe: Tensor) -> Tensor:
    """Turns each neighbouring pair of channels of `x` [B, H, L, D] by its angle, in float32; returns x's dtype."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        even, odd = pairs.unbind(-1)
        cos, sin = pe.unbind(-1)
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    else:
        # A turn is one complex product: one kernel, four to six times faster than its parts, which compilers prefer.
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(pe))
    return turned.flatten(-2).to(x.dtype)


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last dimension; learned `scale`. The mean is taken in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        rrms = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-6)
        return (wide * rrms).to(x.dtype) * self.scale.to(x.dtype)


class QKNorm(nn.Module):
    """RMS normalisation of queries and keys, per head: bounded attention logits are what lets bf16 train."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim)
        self.key_norm = RMSNorm(dim)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.query_norm(q), self.key_norm(k)


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, 3 * heads * head_dim] → query, key, value, each [B, heads, L, head_dim]."""
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def attention(q: Tensor, k: Tensor, v: Tensor, pe: Tensor) -> Tensor:
    """Full attention of rotated queries and keys: [B, H, L, D] three times → [B, L, H * D]."""
    q, k = apply_rope(q, pe), apply_rope(k, pe)
    few = q.device.type == "cpu" and q.shape[-2] <= _FEW_TOKENS
    if few and (q.dtype == torch.bfloat16 or torch.is_grad_enabled()):
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        x = logits.softmax(dim=-1) @ v
    else:
        x = F.scaled_dot_product_attention(q, k, v)
    return x.transpose(1, 2).flatten(2)
