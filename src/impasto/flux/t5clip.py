"""FLUX.1's own text encoders: T5-XXL's token states for the text stream, CLIP-L's pooled state for the modulation.

The tokenizers come with the package (they are the same for every FLUX.1), so a single-file checkpoint needs no hub.
Lengths are fixed, as in training: prompts are padded to 512 tokens ([schnell]: 256) for T5 and 77 for CLIP, and no
attention mask is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from impasto.flux import offload, placing, shapes, weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.encoders import T5, Clip
from impasto.flux.models import ClipParams
from impasto.flux.stored import Shape, Tensors, read_json
from impasto.flux.text import TextStates

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZERS = Path(__file__).parent / "tokenizers"
CLIP_TOKENS = 77
CLIP_PAD = "<|endoftext|>"

TOWER = "text_model."
TIED = {"encoder.embed_tokens.weight": "shared.weight"}
"""T5's one embedding under its two names; files keep the right one, some both."""

NOT_OURS = ("text_projection.weight", "logit_scale", "embeddings.position_ids", "logit_bias")
"""What CLIP files carry beside the text model."""


class Renamed(Tensors):
    """Tensors with `wanted` before their keys instead of `prefix`, without the keys of `left_out`.

    Releases of transformers differ in whether CLIP's and SigLIP's keys begin with the tower's name; files always do.
    """

    def __init__(self, tensors: Tensors, *, prefix: str, wanted: str = "", left_out: tuple[str, ...] = ()) -> None:
        self._tensors = tensors
        bare = {key.removeprefix(prefix): key for key in tensors if not key.endswith(left_out or ("\0",))}
        self._stored = {wanted + name: key for name, key in bare.items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[self._stored[key]]

    def _names(self) -> Mapping[str, object]:
        return self._stored

    def shape(self, key: str) -> Shape:
        return self._tensors.shape(self._stored[key])

    def size(self, key: str) -> int:
        return self._tensors.size(self._stored[key])

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        return self._tensors.is_mapped(self._stored[key], narrow=narrow)

    def done(self, key: str) -> None:
        self._tensors.done(self._stored[key])


@cache
def tokenizer(name: str, length: int) -> Tokenizer:
    """`t5` or `clip`, which cuts and pads to `length` tokens."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(TOKENIZERS / f"{name}.json"))
    pad = "<pad>" if name == "t5" else CLIP_PAD
    loaded.enable_truncation(length)
    loaded.enable_padding(length=length, pad_id=loaded.token_to_id(pad), pad_token=pad)
    return loaded


class T5ClipTextEncoder:
    """Both encoders. `max_tokens` is T5's length."""

    def __init__(self, t5: T5, clip: Clip, *, max_tokens: int) -> None:
        self.t5 = t5
        self.clip = clip
        self._max_tokens = max_tokens

    @classmethod
    def load(cls, checkpoint: Checkpoint, target: weights.Target, *, on_host: bool = False) -> T5ClipTextEncoder:
        """Reads the encoders of a checkpoint in diffusers' or ComfyUI's layout. `on_host`: T5's weights stay on the
        host and visit the target's device as a prompt is read. Raises WeightsError.
        """
        t5 = visiting_t5(checkpoint, target) if on_host else load_t5(checkpoint, target)
        return cls(t5, load_clip(checkpoint, target), max_tokens=checkpoint.spec.max_text_tokens)

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> TextStates:
        """`txt` [B, 512 or 256, d_model] and `vec` [B, hidden]. `counts` are T5's tokens with the end mark."""
        long = tokenizer("t5", self._max_tokens).encode_batch(prompts)
        short = tokenizer("clip", CLIP_TOKENS).encode_batch(prompts)
        t5_ids = torch.tensor([encoding.ids for encoding in long], device=self.t5.device)
        clip_ids = torch.tensor([encoding.ids for encoding in short], device=self.clip.device)
        return TextStates(
            txt=self.t5(t5_ids),
            vec=self.clip(clip_ids),
            counts=tuple(sum(encoding.attention_mask) for encoding in long),
            truncated=tuple(bool(encoding.overflowing) for encoding in long),
        )


def t5_tensors(checkpoint: Checkpoint) -> Tensors:
    return Renamed(checkpoint.tensors("t5"), prefix="", left_out=tuple(TIED))


def load_t5(checkpoint: Checkpoint, target: weights.Target) -> T5:
    tensors = t5_tensors(checkpoint)
    params = shapes.t5(tensors)
    name = str(checkpoint.path("t5"))
    return weights.build(lambda: T5(params), tensors, name=name, target=target, tied=TIED)


def visiting_t5(checkpoint: Checkpoint, target: weights.Target, *, copies: offload.Copies | None = None) -> T5:
    """The same with its blocks' weights on the host, from where each visits the device in turn: 0.4 GB at a time of
    T5-XXL's 9.5. `copies`: how they travel.
    """
    with weights.on_meta():
        away = offload.text_away(T5(shapes.t5(t5_tensors(checkpoint))))
    model = load_t5(checkpoint, placing.Placement(target.device, target.dtype, away))
    offload.install_text(model, target.device, copies=copies)
    return model


def clip_tensors(checkpoint: Checkpoint) -> Tensors:
    """CLIP's text tower, without the tower's name."""
    return Renamed(checkpoint.tensors("clip"), prefix=TOWER, left_out=NOT_OURS)


def clip_params(checkpoint: Checkpoint) -> ClipParams:
    return shapes.clip(clip_tensors(checkpoint), config_beside(checkpoint.path("clip")))


def load_clip(checkpoint: Checkpoint, target: weights.Target) -> Clip:
    params, name = clip_params(checkpoint), str(checkpoint.path("clip"))
    return weights.build(lambda: Clip(params), clip_tensors(checkpoint), name=name, target=target)


def fill_positions(model: Any, count: int, target: weights.Target) -> Any:
    """The meta device left the counter without values; it is no weight, so no file holds it."""
    for module in model.modules():
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            module.register_buffer("position_ids", torch.arange(count, device=target.device)[None], persistent=False)
    return model


def config_beside(path: Path) -> Mapping[str, Any]:
    """The config.json of the part's folder; empty when there is none, as beside a single file."""
    folder = path if path.is_dir() else path.parent
    return read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
