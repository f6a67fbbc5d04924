"""The cache that the transformer trains from: packed latents and text states, made once, a bucket of one size at a
time.

What comes in: sprites, a mix, the block transform, the text encoder. What goes out: `Bucket`s in memory and on disk.
A training step then reads rows, so its time goes into the transformer only.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.flux.latents import pack
from impasto.flux.text import MiniLMTextEncoder
from impasto.training.autoencoder import pixels_of
from impasto.training.captions import caption
from impasto.training.compose import Mix
from impasto.training.pca import BlockPCA
from impasto.training.records import draw_record, paint_record
from impasto.training.sprites import Sprites

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BucketSize:
    """Pictures of one size: pixels, how many composites to cache, and the share of training steps."""

    width: int
    height: int
    count: int
    share: float

    @property
    def name(self) -> str:
        """`widthxheight`, also the file's name."""
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Bucket:
    """Cached samples of one size. `tokens` [N, L, 64] bf16; `caption` [N] rows of `txt` [M, 32, 384] and `vec` [M,
    384].
    """

    size: BucketSize
    tokens: Tensor
    caption: Tensor
    txt: Tensor
    vec: Tensor

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": self.tokens, "caption": self.caption, "txt": self.txt, "vec": self.vec}, path)

    @classmethod
    def load(cls, path: Path, size: BucketSize) -> "Bucket":
        """Read what `save` wrote."""
        return cls(size=size, **load_file(path))


def build(
    size: BucketSize,
    *,
    sprites: Sprites,
    mix: Mix,
    pca: BlockPCA,
    text: MiniLMTextEncoder,
    seed: int,
    scale: float,
    shift: float,
) -> Bucket:
    """Compose, encode and caption one bucket; the same seed gives the same bucket.

    `scale` and `shift` are the autoencoder's factors: the cached tokens are what the transformer sees.
    """
    rng = np.random.default_rng((seed, size.width, size.height))
    rows: dict[str, int] = {}
    captions: list[int] = []
    tokens: list[Tensor] = []
    for start in range(0, size.count, 256):
        pictures: list[np.ndarray] = []
        for _ in range(min(256, size.count - start)):
            record = draw_record(rng, mix)
            pictures.append(paint_record(record, sprites, width=size.width, height=size.height))
            captions.append(rows.setdefault(caption(record, rng), len(rows)))
        latents = scale * (pca.encode(pixels_of(pictures)) - shift)
        tokens.append(pack(latents).to(torch.bfloat16))
    txt, vec = encode_texts(list(rows), text)
    log.info("bucket %s: %d composites, %d captions", size.name, size.count, len(rows))
    return Bucket(size=size, tokens=torch.cat(tokens), caption=torch.tensor(captions), txt=txt, vec=vec)


def encode_texts(texts: list[str], text: MiniLMTextEncoder, batch: int = 64) -> tuple[Tensor, Tensor]:
    """Text states as the transformer will see them: txt [M, 32, 384] and vec [M, 384], bf16, in the order of the
    texts.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # of like length, little padding
    txt: list[Tensor] = []
    vec: list[Tensor] = []
    for start in range(0, len(texts), batch):
        states = text.encode([texts[place] for place in order[start : start + batch]])
        txt.append(states.txt.to(torch.bfloat16))
        vec.append(states.vec.to(torch.bfloat16))
    back = torch.tensor(order).argsort()
    return torch.cat(txt)[back], torch.cat(vec)[back]
