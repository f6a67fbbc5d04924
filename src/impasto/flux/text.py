"""Prompts → text states. The embedded model's encoder is all-MiniLM-L6-v2 (`minilm`); those of FLUX.1 are in `t5clip`.

What comes in: prompts. What goes out: `TextStates`: `txt`, a state for every token, which the transformer's text
stream reads (T5's place in FLUX.1), and `vec`, their mean, which steers the modulation (CLIP's place).

Of MiniLM's six layers five are kept: there a noun's state still knows its own adjectives (a linear probe reads an
object's colour off layers 1 to 5 without error, off layer 6 not quite), while the last layer was trained for the
sentence as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.errors import WeightsError
from impasto.flux import weights
from impasto.flux.minilm import MiniLM
from impasto.flux.stored import open_stored

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LAYERS = 5
MAX_TOKENS = 32


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

    def __init__(self, model: MiniLM, tokenizer: Tokenizer) -> None:
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()  # to the longest of the batch: padding is what most of 32 tokens would be
        self._model = model
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> MiniLMTextEncoder:
        """Reads `text_encoder.safetensors` and `tokenizer.json` of a checkpoint folder. Raises WeightsError."""
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise WeightsError(f"{file}: no such file. The text encoder needs its tokenizer.")
        target = weights.Target(torch.device(device), torch.float32)
        source = folder / "text_encoder.safetensors"
        model = weights.build(lambda: MiniLM(LAYERS), open_stored(source), name=str(source), target=target)
        return cls(model, Tokenizer.from_file(str(file)))

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> TextStates:
        """Token states and their mean for each prompt. A prompt beyond 32 tokens is cut and says so in `truncated`."""
        encodings = self._tokenizer.encode_batch(prompts)
        device = self._model.device
        ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device)
        padded = len({sum(encoding.attention_mask) for encoding in encodings}) > 1
        states = self._model(ids, mask.bool() if padded else None)
        keep = mask[..., None].to(states.dtype)
        txt = F.layer_norm(states, states.shape[-1:]) * keep
        return TextStates(
            txt=F.pad(txt, (0, 0, 0, MAX_TOKENS - txt.shape[1])),
            vec=txt.sum(dim=1) / keep.sum(dim=1),
            counts=tuple(sum(encoding.attention_mask) for encoding in encodings),
            truncated=tuple(bool(encoding.overflowing) for encoding in encodings),
        )
