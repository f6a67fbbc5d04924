"""T5's encoder and CLIP's text tower in plain PyTorch, as FLUX.1 reads prompts with them.

`transformers` has both; but its import took longer than everything else between the start of a process and a small
model's first picture. In: token ids, of fixed length, without a mask, as in training. Out: the same bits as
`T5EncoderModel`'s last states and `CLIPTextModel`'s pooled state. Attribute names are the keys of the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.flux.models import ClipParams, T5Params

BUCKETS, FARTHEST = 32, 128
"""Of T5's relative positions: how many are told apart, and from where on all are one."""


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.to(torch.float32).pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (x * scale).to(self.weight.dtype)


class SelfAttention(nn.Module):
    """T5's: not scaled, its output without bias. Only the first layer has the table of relative positions."""

    def __init__(self, params: T5Params, *, first: bool) -> None:
        super().__init__()
        inner = params.num_heads * params.d_kv
        self.q, self.k, self.v = (nn.Linear(params.d_model, inner, bias=False) for _ in range(3))
        self.o = nn.Linear(inner, params.d_model, bias=False)
        if first:
            self.relative_attention_bias = nn.Embedding(BUCKETS, params.num_heads)
        self._width = params.d_kv

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (part(x).view(b, t, -1, self._width).transpose(1, 2) for part in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, bias, scale=1.0)
        return self.o(out.transpose(1, 2).reshape(b, t, -1))

    def bias(self, length: int) -> Tensor:
        """[1, heads, length, length], added to the scores of every layer."""
        table = self.relative_attention_bias
        return table(buckets(length, device=table.weight.device)).permute(2, 0, 1)[None]


class AttentionLayer(nn.Module):
    def __init__(self, params: T5Params, *, first: bool) -> None:
        super().__init__()
        self.SelfAttention = SelfAttention(params, first=first)
        self.layer_norm = RMSNorm(params.d_model)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class Gated(nn.Module):
    def __init__(self, params: T5Params) -> None:
        super().__init__()
        self.wi_0, self.wi_1 = (nn.Linear(params.d_model, params.d_ff, bias=False) for _ in range(2))
        self.wo = nn.Linear(params.d_ff, params.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(gelu(self.wi_0(x)) * self.wi_1(x))


class FeedForward(nn.Module):
    def __init__(self, params: T5Params) -> None:
        super().__init__()
        self.DenseReluDense = Gated(params)
        self.layer_norm = RMSNorm(params.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nn.Module):
    def __init__(self, params: T5Params, *, first: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList((AttentionLayer(params, first=first), FeedForward(params)))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.layer[1](self.layer[0](x, bias))


class Stack(nn.Module):
    def __init__(self, params: T5Params) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(params.vocab_size, params.d_model)
        self.block = nn.ModuleList(Block(params, first=i == 0) for i in range(params.num_layers))
        self.final_layer_norm = RMSNorm(params.d_model)


class T5(nn.Module):
    """The one embedding has two names, as in the files."""

    def __init__(self, params: T5Params) -> None:
        super().__init__()
        self.shared = nn.Embedding(params.vocab_size, params.d_model)
        self.encoder = Stack(params)

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return self.shared.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] → states [B, T, d_model]. The words' table may be elsewhere than the rest (see `offload`)."""
        x = self.encoder.embed_tokens(ids).to(self.encoder.final_layer_norm.weight.device)
        bias = self.encoder.block[0].layer[0].SelfAttention.bias(ids.shape[1])  # pyright: ignore
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


class ClipEmbeddings(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(params.vocab_size, params.hidden_size)
        self.position_embedding = nn.Embedding(params.max_tokens, params.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        return self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]


class ClipAttention(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        width = params.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self._heads = params.num_heads

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        parts = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part(x).view(b, t, self._heads, -1).transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(out.transpose(1, 2).reshape(b, t, width))


class ClipMLP(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        self.fc1 = nn.Linear(params.hidden_size, params.intermediate_size)
        self.fc2 = nn.Linear(params.intermediate_size, params.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class ClipLayer(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        self.self_attn = ClipAttention(params)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(params.hidden_size), nn.LayerNorm(params.hidden_size)
        self.mlp = ClipMLP(params)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class ClipEncoder(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(params) for _ in range(params.num_layers))


class Clip(nn.Module):
    def __init__(self, params: ClipParams) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(params)
        self.encoder = ClipEncoder(params)
        self.final_layer_norm = nn.LayerNorm(params.hidden_size)

    @property
    def device(self) -> torch.device:
        return self.final_layer_norm.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] → the state [B, hidden_size] at the first end mark, which is the highest token id."""
        x = self.embeddings(ids)
        for layer in self.encoder.layers:
            x = layer(x)
        x = self.final_layer_norm(x)
        return x[torch.arange(len(x), device=x.device), ids.argmax(-1)]


def gelu(x: Tensor) -> Tensor:
    """T5's, written out: torch's own rounds otherwise."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def buckets(length: int, *, device: torch.device) -> Tensor:
    """[length, length]: the class of each distance from query (row) to key. Near ones have one each, far ones share, by
    their logarithm; half of the classes are for keys that come after.
    """
    place = torch.arange(length, device=device)
    distance = place[None, :] - place[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    away = distance.abs()
    far = exact + (torch.log(away.float() / exact) / math.log(FARTHEST / exact) * (half - exact)).to(torch.long)
    return (distance > 0).to(torch.long) * half + torch.where(away < exact, away, far.clamp(max=half - 1))
