"""Sentences → vectors, for the prompt check: three layers of the embedded model's text encoder, in numpy.

The check must not depend on the model that is served: with a checkpoint on a GPU, or without torch, it reads prompts
all the same, some milliseconds each. Three of MiniLM's six layers: the mean of the third layer's states told unsafe
from innocent prompts at least as well as any later layer's (docs/safety.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from impasto.errors import WeightsError

Vectors: TypeAlias = NDArray[np.float32]

WEIGHTS = Path(__file__).parents[2] / "weights" / "impasto-mini"
LAYERS = 3
HEADS = 12
MAX_TOKENS = 64  # a longer sentence is cut
WORDS = "embeddings.word_embeddings.weight"


class Embed(Protocol):
    def __call__(self, sentences: Sequence[str]) -> Vectors:
        """→ [number of sentences, width], unit length."""
        ...


class MiniLM:
    """All-MiniLM-L6-v2 (Apache-2.0) up to its third layer, and the mean over the tokens."""

    def __init__(self, folder: Path = WEIGHTS) -> None:
        # A server without this check pays for none of them.
        from safetensors import safe_open
        from threadpoolctl import ThreadpoolController
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            with safe_open(folder / "text_encoder.safetensors", framework="numpy") as file:
                self._w = {name: file.get_tensor(name) for name in file.keys() if _wanted(name)}  # noqa: SIM118
        except Exception as error:  # both libraries raise Exception itself
            raise WeightsError(
                f"The prompt check cannot read its text encoder in {folder} ({error}). Install impasto anew, or set "
                'safety.prompt_check = "rules".'
            ) from error
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        for name, array in self._w.items():
            if name != WORDS:  # the largest by far, and only some rows of it are ever read
                self._w[name] = array.astype(np.float32)
        # Matrices so small gain nothing from a second thread, and on a busy machine threads that wait for each other
        # took fifteen times as long.
        self._blas = ThreadpoolController().select(user_api="blas")

    def __call__(self, sentences: Sequence[str]) -> Vectors:
        with self._blas.limit(limits=1):
            return self._mean_states(sentences)

    def _mean_states(self, sentences: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(list(sentences))
        ids = np.array([encoding.ids for encoding in encodings])
        keep = np.array([encoding.attention_mask for encoding in encodings], np.float32)[..., None]
        vectors = (self._states(ids, keep) * keep).sum(axis=1) / keep.sum(axis=1)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _states(self, ids: NDArray[np.int64], keep: Vectors) -> Vectors:
        """Token ids [n, t] → the last layer's states [n, t, 384]."""
        x = self._w[WORDS][ids].astype(np.float32) + self._w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = self._norm(x + self._w["embeddings.token_type_embeddings.weight"][0], "embeddings")
        padding = (1 - keep[:, None, None, :, 0]) * np.float32(-1e9)
        for i in range(LAYERS):
            layer = f"encoder.layer.{i}"
            q, k, v = (_heads(self._linear(x, f"{layer}.attention.self.{name}")) for name in ("query", "key", "value"))
            scores = q @ k.swapaxes(-1, -2) / np.float32(q.shape[-1] ** 0.5) + padding
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed = weights / weights.sum(axis=-1, keepdims=True) @ v
            mixed = self._linear(mixed.swapaxes(1, 2).reshape(x.shape), f"{layer}.attention.output.dense")
            x = self._norm(x + mixed, f"{layer}.attention.output")
            wide = _gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{layer}.output.dense"), f"{layer}.output")
        return x

    def _linear(self, x: Vectors, name: str) -> Vectors:
        return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"]

    def _norm(self, x: Vectors, name: str) -> Vectors:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
        return scaled * self._w[f"{name}.LayerNorm.weight"] + self._w[f"{name}.LayerNorm.bias"]


def _wanted(name: str) -> bool:
    parts = name.split(".")
    return parts[0] != "encoder" or int(parts[2]) < LAYERS


def _heads(x: Vectors) -> Vectors:
    """[n, t, width] → [n, heads, t, width / heads]"""
    return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)


def _gelu(x: Vectors) -> Vectors:
    """BERT's, by the hyperbolic tangent: within 0.001 of the one by the error function, which numpy lacks."""
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978846) * (x + np.float32(0.044715) * x * x * x)))
