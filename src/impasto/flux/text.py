"""Prompts → text states. The embedded model's encoder is all-MiniLM-L6-v2 (`minilm`); those of FLUX.1 are in `t5clip`.

What comes in: prompts. What goes out: `TextStates`: `txt`, a state for every token, which the transformer's text
stream reads (T5's place in FLUX.1), and `vec`, their mean, which steers the modulation (CLIP's place).

Of MiniLM's six layers five are kept: there a noun's state still knows its own adjectives (a linear probe reads an
object's colour off layers 1 to 5 without error, off layer 6 not quite), while the last layer was trained for the
sentence as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.errors import WeightsError
from impasto.flux import weights
from impasto.flux.minilm import MiniLM
from impasto.flux.places import Places
from impasto.flux.stored import open_stored

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

LAYERS = 5
MAX_TOKENS = 32
PLACES_FILE = "text_places.safetensors"


@dataclass(frozen=True, slots=True)
class TextStates:
    """`txt` [B, T, C] token states and `vec` [B, V] one state for all; `counts`: tokens of each prompt with its marks;
    `truncated`: whether the prompt was longer than the model reads. MiniLM: T is 32, C and V 384, zeros at the padding.
    """

    txt: Tensor
    vec: Tensor
    counts: tuple[int, ...]
    truncated: tuple[bool, ...]


class MiniLMTextEncoder:
    """Five layers of MiniLM and its tokenizer. Runs in float32: 9 M parameters, some milliseconds a prompt on one
    core.
    """

    def __init__(self, model: MiniLM, tokenizer: Tokenizer, places: Places | None = None) -> None:
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()  # to the longest of the batch: padding is what most of 32 tokens would be
        self._model = model
        self._tokenizer = tokenizer
        self.places = places

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu", places: Path | None = None) -> MiniLMTextEncoder:
        """Reads `text_encoder.safetensors`, `tokenizer.json` and, where there is one, `text_places.safetensors` of a
        checkpoint folder, or `places` instead. Raises WeightsError.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise WeightsError(f"{file}: no such file. The text encoder needs its tokenizer.")
        target = weights.Target(torch.device(device), torch.float32)
        source = folder / "text_encoder.safetensors"
        model = weights.build(lambda: MiniLM(LAYERS), open_stored(source), name=str(source), target=target)
        beside = places or folder / PLACES_FILE
        if not beside.is_file():
            return cls(model, Tokenizer.from_file(str(file)))
        layers = weights.build(Places, open_stored(beside), name=str(beside), target=target)
        return cls(model, Tokenizer.from_file(str(file)), layers)

    @property
    def device(self) -> torch.device:
        """Where it reads."""
        return self._model.device

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> TextStates:
        """Token states and their mean for each prompt. A prompt beyond 32 tokens is cut and says so in `truncated`."""
        encodings = self._tokenizer.encode_batch(prompts)
        embedded, states, mask, padded = self._run(encodings)
        keep = mask[..., None].to(states.dtype)
        txt = F.layer_norm(states, states.shape[-1:]) * keep
        vec = txt.sum(dim=1) / keep.sum(dim=1)
        if self.places is not None:
            txt = txt + self.places(embedded, states, mask if padded else None) * keep
        return TextStates(
            txt=F.pad(txt, (0, 0, 0, MAX_TOKENS - txt.shape[1])),
            vec=vec,
            counts=tuple(sum(encoding.attention_mask) for encoding in encodings),
            truncated=tuple(bool(encoding.overflowing) for encoding in encodings),
        )

    @torch.inference_mode()
    def words(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, list[list[tuple[int, int]]]]:
        """What `places` is trained on: states of the embedding and of the last layer [B, T, 384], where there are
        tokens [B, T], and of each token the characters that it stands for.
        """
        encodings = self._tokenizer.encode_batch(prompts)
        embedded, states, mask, _ = self._run(encodings)
        return embedded, states, mask, [encoding.offsets for encoding in encodings]

    def _run(self, encodings: Sequence[Encoding]) -> tuple[Tensor, Tensor, Tensor, bool]:
        """States of the embedding and of the last layer, where there are tokens, whether not everywhere."""
        device = self._model.device
        ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device).bool()
        padded = len({sum(encoding.attention_mask) for encoding in encodings}) > 1
        return self._model.embeddings(ids), self._model(ids, mask if padded else None), mask, padded
