"""The cache that the transformer trains from: packed latents and text states, made once, a bucket of one size at a
time.

What comes in: sprites, a mix, the block transform, the text encoder. What goes out: `Bucket`s in memory and on disk.
A training step then reads rows, so its time goes into the transformer only.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
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

T = TypeVar("T")


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

    def to(self, device: str) -> "Bucket":
        """The same on another device. On a GPU a step then waits for no copy, and draws its random numbers there."""
        moved = (tensor.to(device) for tensor in (self.tokens, self.caption, self.txt, self.vec))
        return Bucket(self.size, *moved)


CHUNK = 256
"""Pictures that share a generator: the unit of work, so that the cache does not depend on who made which part."""


@dataclass(frozen=True, slots=True)
class Composer:
    """Paints and captions the chunks of one bucket."""

    size: BucketSize
    mix: Mix
    seed: int

    def chunk(self, sprites: Sprites, start: int) -> tuple[Pixels, list[str]]:
        """Pictures [n, H, W, 3] uint8 and their captions, from `start` on."""
        rng = np.random.default_rng((self.seed, self.size.width, self.size.height, start))
        pictures: list[Pixels] = []
        captions: list[str] = []
        for _ in range(min(CHUNK, self.size.count - start)):
            record = draw_record(rng, self.mix)
            pictures.append(paint_record(record, sprites, width=self.size.width, height=self.size.height))
            captions.append(caption(record, rng))
        return np.stack(pictures), captions


@dataclass(frozen=True, slots=True)
class Encoded:
    """A composer whose pictures come out as the tokens that the transformer sees: `scale` and `shift` are the
    autoencoder's factors.
    """

    composer: Composer
    pca: BlockPCA
    scale: float
    shift: float

    def chunk(self, sprites: Sprites, start: int) -> tuple[npt.NDArray[np.int16], list[str]]:
        """The bits of the tokens [n, L, 64] in bf16, which numpy has no word for, and the captions."""
        pictures, captions = self.composer.chunk(sprites, start)
        latents = self.scale * (self.pca.encode(pixels_of(list(pictures))) - self.shift)
        return pack(latents).to(torch.bfloat16).view(torch.int16).numpy(), captions


class Painters:
    """Processes that paint chunks, each with the sprites at hand; they start when there are enough pictures to paint,
    and serve one bucket after the other. To be closed.
    """

    def __init__(self, sprites: Sprites, workers: int) -> None:
        self.sprites, self._workers = sprites, workers
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_hold, initargs=(sprites,))

    def __enter__(self) -> "Painters":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def chunks(self, make: Callable[[Sprites, int], T], count: int) -> Iterator[T]:
        """What `make` makes of the sprites and the first number of every chunk of so many pictures, in order."""
        starts = range(0, count, CHUNK)
        if self._workers < 2 or count < MANY:
            return (make(self.sprites, start) for start in starts)
        return self._pool.map(partial(_made, make), starts, chunksize=4)


MANY = 10_000
"""Pictures of a bucket from which several processes, which take seconds to start, are worth it."""

_held: list[Sprites] = []


def _hold(sprites: Sprites) -> None:
    torch.set_num_threads(1)
    _held.append(sprites)


def _made(make: Callable[[Sprites, int], T], start: int) -> T:
    return make(_held[0], start)


def build(encoded: Encoded, painters: Painters, text: MiniLMTextEncoder) -> Bucket:
    """Compose, encode and caption one bucket; the same seed gives the same bucket, with any number of painters."""
    size = encoded.composer.size
    rows: dict[str, int] = {}
    captions: list[int] = []
    tokens: list[Tensor] = []
    for bits, said in painters.chunks(encoded.chunk, size.count):
        captions += [rows.setdefault(words, len(rows)) for words in said]
        tokens.append(torch.from_numpy(bits).view(torch.bfloat16))
    txt, vec = encode_texts(list(rows), text)
    log.info("bucket %s: %d composites, %d captions", size.name, size.count, len(rows))
    return Bucket(size=size, tokens=torch.cat(tokens), caption=torch.tensor(captions), txt=txt, vec=vec)


def encode_texts(texts: list[str], text: MiniLMTextEncoder) -> tuple[Tensor, Tensor]:
    """Text states as the transformer will see them: txt [M, 32, 384] and vec [M, 384], bf16, in the order of the
    texts.
    """
    batch = 64 if text.device.type == "cpu" else 2048
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # of like length, little padding
    txt: list[Tensor] = []
    vec: list[Tensor] = []
    for start in range(0, len(texts), batch):
        states = text.encode([texts[place] for place in order[start : start + batch]])
        txt.append(states.txt.to("cpu", torch.bfloat16))
        vec.append(states.vec.to("cpu", torch.bfloat16))
    back = torch.tensor(order).argsort()
    return torch.cat(txt)[back], torch.cat(vec)[back]
