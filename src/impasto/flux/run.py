"""One sample's way through the transformer: all that stays the same over its steps, computed once, and each step's
velocity.

In: the model, a conditioning, the pictures beside it, steps and guidance. Out: `sigmas`, and `velocity(i, latents)`. It
keeps no latents, so the same step may be asked for any: the parity tests hand it those of another implementation. (With
`caching` it keeps the last whole step's work, and steps have to come in their order.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from impasto.flux import latents as lat
from impasto.flux import schedule
from impasto.flux.conditioning import Conditioning, Context
from impasto.flux.linear import Sides, attached
from impasto.flux.means import PLAIN, Means
from impasto.flux.memory import is_out_of_memory, release
from impasto.flux.models import ModelSpec
from impasto.flux.step_cache import FEWEST_STEPS, StepCache, Threshold
from impasto.flux.transformer import Flux, Modulations


class Run:
    """`native` is (height, width); `strength`, `beside`, `context`, `cfg`, `sides`, `caching`, `quick` as in
    `Pipeline.denoise`; `means`: what of it is there to make passes fast.
    """

    def __init__(
        self,
        model: Flux,
        spec: ModelSpec,
        conditioning: Conditioning,
        *,
        native: tuple[int, int],
        steps: int,
        guidance: float,
        cfg: float = 1.0,
        strength: float = 1.0,
        beside: Tensor | None = None,
        context: Context | None = None,
        sides: Sides | None = None,
        caching: Threshold | None = None,
        means: Means = PLAIN,
        quick: bool = False,
    ) -> None:
        sigmas = schedule.sigmas(steps, lat.token_count(*native), spec.shift)
        self.sigmas = sigmas if strength >= 1.0 else schedule.remaining(sigmas, strength)
        self.steps = len(self.sigmas) - 1
        self._model = model
        self._beside = beside
        self._context = context
        self._sides = sides or {}
        self._means = means
        self._quick = quick
        # At scale 1 the other prompt has no weight, so its half of the work is left out.
        self._scale = guidance if spec.guidance == "cfg" else cfg
        self._batch = min(2 if self._scale != 1.0 else 1, len(conditioning.txt))
        self._halved = False
        self._caches: tuple[StepCache, ...] = ()
        if caching is not None and self.steps >= FEWEST_STEPS:
            # The passes of a pair may part ways when memory runs out: each row then has a cache of its own.
            self._caches = tuple(StepCache(caching, steps=self.steps) for _ in range(self._batch))

        # Nothing here depends on the latents: computed once for all steps, and no step waits for the host.
        device = next(model.parameters()).device
        txt, vec = conditioning.txt[: self._batch], conditioning.vec[: self._batch]
        times = torch.tensor(self.sigmas[:-1], device=device)[:, None].expand(self.steps, self._batch)
        scale = torch.full_like(times, guidance) if model.params.guidance_embed else None
        with attached(model, self._sides):
            self._mods = model.modulate(model.vector(times, vec, scale))
            self._words = model.context(txt)
        ids = lat.image_ids(*native) if context is None else torch.cat((lat.image_ids(*native), context.ids))
        self._pe = model.positions(lat.text_ids(txt.shape[1]), ids).to(device)

    def velocity(self, i: int, img: Tensor) -> Tensor:
        """Where step `i` leads from the latents [1, L, C]: [1, L, C], float32."""
        tokens = img if self._beside is None else torch.cat((img, self._beside), dim=-1)
        if self._context is not None:
            tokens = torch.cat((tokens, self._context.tokens), dim=1)
        ways = self._means.around(sides=bool(self._sides), quick=self._quick)
        with attached(self._model, self._sides), ways:
            velocity = self._forward(tokens, self._mods.at(i), drawn=img.shape[1])[:, : img.shape[1]]
        if self._batch == 1:
            return velocity
        prompt, other = velocity.chunk(2)
        return other + self._scale * (prompt - other)

    @property
    def reused(self) -> bool:
        """Whether the last `velocity` took work over from the step before (see `step_cache`)."""
        return any(cache.reused for cache in self._caches)

    def _forward(self, tokens: Tensor, mods: Modulations, *, drawn: int) -> Tensor:
        """Both passes at once; when memory runs out over that, one after the other from then on."""
        if not self._halved:
            try:
                return self._pass(tokens, self._words, mods, drawn=drawn)
            except (RuntimeError, MemoryError) as error:
                if self._batch == 1 or not is_out_of_memory(error):
                    raise
            # Outside of the except block, whose traceback holds the tensors.
            self._halved = True
            for cache in self._caches:
                cache.forget()
            release(tokens.device)
        rows = [
            self._pass(tokens, self._words[b : b + 1], mods.row(b), drawn=drawn, number=b) for b in range(self._batch)
        ]
        return torch.cat(rows)

    def _pass(self, tokens: Tensor, words: Tensor, mods: Modulations, *, drawn: int, number: int = 0) -> Tensor:
        tokens = tokens.expand(len(words), -1, -1)
        if self._caches:
            cache = self._caches[number]
            return cache.velocity(self._model, tokens, words, self._pe, mods, drawn=drawn).float()
        if self._means.graphs is not None and not self._sides:
            recorded = self._means.graphs.velocity
            return recorded(tokens, words, self._pe, mods, variant=self._quick).float()
        return self._model.velocity(tokens, words, self._pe, mods).float()
