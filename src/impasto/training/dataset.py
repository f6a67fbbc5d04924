"""The cache that the transformer trains from: packed latents and text states, made once, a bucket of one size at a
time.

What comes in: sprites, a mix, the block transform, the text encoder. What goes out: `Bucket`s in memory and on disk.
A training step then reads rows, so its time goes into the transformer only.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
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
from impasto.training.sprites import Pixels, Sprites

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


CHUNK = 256
"""Pictures that share a generator: the unit of work, so that the cache does not depend on who made which part."""


@dataclass(frozen=True, slots=True)
class Composer:
    """Paints and captions the chunks of one bucket."""

    size: BucketSize
    sprites: Sprites
    mix: Mix
    seed: int

    def chunk(self, start: int) -> tuple[Pixels, list[str]]:
        """Pictures [n, H, W, 3] uint8 and their captions, from `start` on."""
        rng = np.random.default_rng((self.seed, self.size.width, self.size.height, start))
        pictures: list[Pixels] = []
        captions: list[str] = []
        for _ in range(min(CHUNK, self.size.count - start)):
            record = draw_record(rng, self.mix)
            pictures.append(paint_record(record, self.sprites, width=self.size.width, height=self.size.height))
            captions.append(caption(record, rng))
        return np.stack(pictures), captions

    def chunks(self, workers: int) -> Iterator[tuple[Pixels, list[str]]]:
        """All chunks in order, made by so many processes."""
        starts = range(0, self.size.count, CHUNK)
        if workers < 2:
            yield from map(self.chunk, starts)
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(self.chunk, starts, chunksize=4)


def build(
    composer: Composer, *, pca: BlockPCA, text: MiniLMTextEncoder, scale: float, shift: float, workers: int = 1
) -> Bucket:
    """Compose, encode and caption one bucket; the same seed gives the same bucket, with any number of workers.

    `scale` and `shift` are the autoencoder's factors: the cached tokens are what the transformer sees.
    """
    size = composer.size
    rows: dict[str, int] = {}
    captions: list[int] = []
    tokens: list[Tensor] = []
    for pictures, said in composer.chunks(workers):
        captions += [rows.setdefault(words, len(rows)) for words in said]
        latents = scale * (pca.encode(pixels_of(list(pictures))) - shift)
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
        txt.append(states.txt.to("cpu", torch.bfloat16))
        vec.append(states.vec.to("cpu", torch.bfloat16))
    back = torch.tensor(order).argsort()
    return torch.cat(txt)[back], torch.cat(vec)[back]
