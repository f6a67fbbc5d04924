"""Words and phrases of `rules.toml`, looked for in several readings of the prompt.

Whole words only, and phrases of the allow-list are taken out first: Scunthorpe, a cock crowing and Moby Dick pass.
"""

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from impasto.engine.safety.base import SEXUAL_MINORS, Verdict
from impasto.engine.safety.minors import Minors
from impasto.engine.safety.pictures import threshold_of
from impasto.engine.safety.reading import pattern, readings


class Rules:
    """`thresholds`: score from which a prompt is flagged, for tolerance 1 to 6."""

    def __init__(self, table: dict[str, Any], thresholds: Sequence[float]) -> None:
        self._thresholds = thresholds
        self._allowed = pattern(table["allow"]["phrases"])
        self._categories = [
            (name, float(level["score"]), pattern(level["words"]))
            for name, levels in table["categories"].items()
            for level in levels
        ]
        self._minors = Minors(table, [(score, words) for name, score, words in self._categories if name == "sexual"])

    @classmethod
    def load(cls, thresholds: Sequence[float]) -> "Rules":
        return cls(_table(), thresholds)

    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        """The worst category found. Time grows with the prompt's length only."""
        minors = self.sexual_minors(prompt)
        if minors.flagged:
            return minors
        score, category = self.worst(prompt)
        flagged = score >= threshold_of(self._thresholds, tolerance)
        return Verdict(flagged, score, category, f"prompt rules: {category}" if category else "")

    def worst(self, prompt: str) -> tuple[float, str]:
        """→ (score, category) of the worst word found; (0, "") when there is none."""
        texts = self._texts(prompt)
        found = ((score, name) for name, score, words in self._categories if any(map(words.search, texts)))
        return max(found, default=(0.0, ""))

    def sexual_minors(self, prompt: str) -> Verdict:
        """Flagged when the prompt names a minor and something sexual, at no tolerance of anybody's choice."""
        if self._minors.refuses(self._texts(prompt)):
            return Verdict(True, 1.0, SEXUAL_MINORS, "prompt rules: sexual content with minors")
        return Verdict(False, 0.0)

    def names_minor(self, prompt: str) -> bool:
        return self._minors.names_minor(self._texts(prompt))

    def _texts(self, prompt: str) -> list[str]:
        return [self._allowed.sub(" , ", reading) for reading in readings(prompt)]


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("impasto.engine.safety").joinpath("rules.toml").read_text(encoding="utf-8"))
