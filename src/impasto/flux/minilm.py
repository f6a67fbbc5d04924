"""all-MiniLM-L6-v2 (Apache-2.0) in plain PyTorch: the layers that are kept, without pooling and dropout.

It is BERT, and `transformers` has that too; but importing it took longer than everything else between the start of a
process and its first picture. In: token ids. Out: the last kept layer's states, the same bits as `BertModel`'s.
Attribute names are the keys of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCABULARY, POSITIONS, WIDTH, HEADS, INNER = 30522, 512, 384, 12, 1536
EPS = 1e-12


class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPS)

    def forward(self, ids: Tensor) -> Tensor:
        words = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + self.position_embeddings.weight[: ids.shape[1]])


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (part(x).view(b, t, HEADS, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(b, t, WIDTH)


class Out(nn.Module):
    """A linear whose output joins the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPS)

    def forward(self, x: Tensor, stream: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + stream)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self = Attend()
        self.output = Out(WIDTH)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(WIDTH, INNER)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.intermediate = Inner()
        self.output = Out(INNER)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention.output(self.attention.self(x, mask), x)
        return self.output(F.gelu(self.intermediate.dense(x)), x)


class Encoder(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(layers))


class MiniLM(nn.Module):
    """The first `layers` of six."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.encoder = Encoder(layers)

    @property
    def device(self) -> torch.device:
        return self.embeddings.word_embeddings.weight.device

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """`ids` [B, T]; `keep` [B, T]: False at the padding, None where there is none. → [B, T, 384]."""
        mask = None if keep is None else keep[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        x = self.embeddings(ids)
        for layer in self.encoder.layer:
            x = layer(x, mask)
        return x
