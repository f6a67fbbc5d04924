"""What the transformer is told about a picture: words, and the pictures that a caller gave, each in the form in which
the model was trained to read it.

    words        text states and a pooled vector                            `Conditioning`
    image start  latents under part of the noise, anew only where a mask says `Init`
    take after   the embedded model's pull towards latents                  `Reference`
    Redux        tokens behind the text's                                   `Conditioning.seeing`
    Fill         masked latents and the mask, beside every image token      `fill_tokens`
    Canny, Depth the map's latents, beside every image token                `pack` of them is enough
    Kontext      latents as further image tokens, at positions of their own `Context`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from impasto.flux import latents as lat
from impasto.flux import schedule


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A prompt as the transformer reads it. May be kept and used for any number of samples.

    `txt` [B, T, C] and `vec` [B, V], where B is 1, or 2 when guidance takes two passes: the prompt, then the empty or
    the negative prompt. `tokens` counts the prompt's tokens; `truncated`: the model did not read it to its end.
    `unknown`: words that say nothing to a model with a vocabulary; `instead`: what it draws, when it knows no thing of
    the prompt.
    """

    txt: Tensor
    vec: Tensor
    tokens: int
    truncated: bool
    unknown: tuple[str, ...] = ()
    instead: str | None = None

    def seeing(self, pictures: Sequence[Seen]) -> Conditioning:
        """With Redux's tokens of `pictures` behind the text's, as diffusers' FluxPriorReduxPipeline puts them: each
        picture with the text, scaled, and the sum of all. The pass without the prompt sees nothing in their place.
        """
        if not pictures:
            return self
        txt = sum(
            torch.cat((self.txt[:1] * each.text, each.states.to(self.txt) * each.picture), 1) for each in pictures
        )
        vec = sum(self.vec[:1] * each.text for each in pictures)
        assert isinstance(txt, Tensor)
        assert isinstance(vec, Tensor)
        blind = torch.cat(
            (self.txt[1:], torch.zeros_like(txt[:, self.txt.shape[1] :]).expand(len(self.txt) - 1, -1, -1)), 1
        )
        return replace(self, txt=torch.cat((txt, blind)), vec=torch.cat((vec, self.vec[1:])))


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture as Redux's text states [1, 729, C]; the scales of its tokens and of the text's beside it."""

    states: Tensor
    picture: float = 1.0
    text: float = 1.0


@dataclass(frozen=True, slots=True)
class Init:
    """Where a drawing starts: a picture's latents [1, C, h, w] at the native size, noised as far as `strength` says.

    0 keeps the picture but for one step, 1 leaves nothing of it. `region` [1, 1, h, w]: 1 where it is drawn anew, 0
    where the picture's own latents, noised as far as each step has come, take the place of what was drawn.
    """

    latents: Tensor
    strength: float
    region: Tensor | None = None

    def outside_kept(self, img: Tensor, noise: Tensor, *, sigma: float) -> Tensor:
        """The tokens `img` [1, L, 4 C] of a step that arrived at `sigma`, with the picture back outside of `region`."""
        if self.region is None:
            return img
        anew = lat.pack(self.region.expand_as(self.latents))
        return (1 - anew) * schedule.noised(lat.pack(self.latents), noise, sigma=sigma) + anew * img


@dataclass(frozen=True, slots=True)
class Reference:
    """What a drawing takes after: a picture's latents [1, C, h, w] at the native size. `strength` 0: not at all; 1: it
    becomes the picture.
    """

    latents: Tensor
    strength: float


@dataclass(frozen=True, slots=True)
class Context:
    """Pictures that Kontext changes: `tokens` [1, R, 4 C] and their positions `ids` [R, 3]."""

    tokens: Tensor
    ids: Tensor

    @classmethod
    def of(cls, pictures: Sequence[Tensor]) -> Context:
        """Latents [1, C, h, w] of each picture. The first axis of a position says which picture: 0 is the one that is
        drawn, the given ones count from 1.
        """
        ids: list[Tensor] = []
        for number, latents in enumerate(pictures, start=1):
            own = lat.image_ids(latents.shape[2] * lat.DOWNSCALE, latents.shape[3] * lat.DOWNSCALE)
            own[:, 0] = number
            ids.append(own)
        return cls(torch.cat([lat.pack(latents) for latents in pictures], dim=1), torch.cat(ids))


def fill_tokens(masked: Tensor, mask: Tensor) -> Tensor:
    """What Fill reads beside every image token: [1, L, 64 + 256].

    `masked` [1, C, h, w]: latents of the picture, grey where it is to be filled; `mask` [1, 1, 8 h, 8 w]: 1 there, else
    0. The 8x8 mask values of a latent become channels, in rows.
    """
    b, _, height, width = mask.shape
    h, w, side = height // lat.DOWNSCALE, width // lat.DOWNSCALE, lat.DOWNSCALE
    folded = mask.reshape(b, h, side, w, side).permute(0, 2, 4, 1, 3).reshape(b, side * side, h, w)
    return torch.cat((lat.pack(masked), lat.pack(folded.to(masked))), dim=-1)
