"""The shipped prompt check: words and phrases of `rules.toml`, looked for in several readings of the prompt.

A reading undoes one way of hiding a word: odd Unicode, digits for letters, letters set apart, letters repeated.
Whole words only, and phrases of the allow-list are taken out first: Scunthorpe, a cock crowing and Moby Dick pass.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from impasto.engine.safety.base import SEXUAL_MINORS, Verdict
from impasto.engine.safety.pictures import threshold_of

SEXUAL_ENOUGH = 0.5  # score from which a sexual word beside a minor refuses the request
ADULT = 18
# Letters of other scripts that look Latin.
LOOKALIKES = str.maketrans("аесорхуіѕјԁԛкмнтвαοερικνυτ", "aecopxyisjdqkmhtbaoepiknut")
LEET = str.maketrans("013457@$!|€", "oieastasiie")
AGE = re.compile(r"\b(?:(\d{1,2})[ -]*(?:years?|yrs?|yo|y/o)\b(?:[ -]*olds?)?|aged? (?:of )?(\d{1,2})\b)")
APART = re.compile(r"(?<![^\W_])[^\W_]([\W_]{1,2})(?:[^\W_]\1)+[^\W_](?![^\W_])")
REPEATED = re.compile(r"([^\W\d_])\1{2,}")


class Rules:
    """`thresholds`: score from which a prompt is flagged, for tolerance 1 to 6."""

    def __init__(self, table: dict[str, Any], thresholds: Sequence[float]) -> None:
        self._thresholds = thresholds
        self._allowed = _pattern(table["allow"]["phrases"])
        self._minors = _pattern(table["minors"]["words"])
        self._categories = [
            (name, float(level["score"]), _pattern(level["words"]))
            for name, levels in table["categories"].items()
            for level in levels
        ]

    @classmethod
    def load(cls, thresholds: Sequence[float]) -> "Rules":
        return cls(_table(), thresholds)

    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        """The worst category found. Time grows with the prompt's length only."""
        worst = self.sexual_minors(prompt)
        if worst.flagged:
            return worst
        texts = self._texts(prompt)
        score, category = max(
            ((score, name) for name, score, pattern in self._categories if _found(pattern, texts)), default=(0.0, "")
        )
        flagged = score >= threshold_of(self._thresholds, tolerance)
        return Verdict(flagged, score, category, f"prompt rules: {category}" if category else "")

    def sexual_minors(self, prompt: str) -> Verdict:
        """Flagged when the prompt names a minor and something sexual, at no tolerance of anybody's choice."""
        texts = self._texts(prompt)
        sexual = any(
            name == "sexual" and score >= SEXUAL_ENOUGH and _found(pattern, texts)
            for name, score, pattern in self._categories
        )
        if sexual and (_found(self._minors, texts) or any(_names_minor_age(text) for text in texts)):
            return Verdict(True, 1.0, SEXUAL_MINORS, "prompt rules: sexual content with minors")
        return Verdict(False, 0.0)

    def _texts(self, prompt: str) -> list[str]:
        return [self._allowed.sub(" , ", reading) for reading in readings(prompt)]


def readings(prompt: str) -> list[str]:
    """`prompt` as it may be meant, without doubles: folded; digits read as letters; letters pulled together."""
    plain = _fold(prompt)
    leet = plain.translate(LEET)
    together = [APART.sub(_join, text) for text in (plain, leet)]
    squeezed = [REPEATED.sub(r"\1", text) for text in (leet, *together)]
    spaced = re.sub(r"[_\-]+", " ", plain)
    return list(dict.fromkeys((plain, leet, spaced, *together, *squeezed)))


def _join(run: re.Match[str]) -> str:
    """Letters set apart → the word, and the word without its first letter: "a n u d e" has an article before it."""
    word = re.sub(r"[\W_]", "", run[0])
    return f"{word} {word[1:]}"


def _fold(prompt: str) -> str:
    """Lower case without accents, invisible characters and lookalike letters."""
    text = unicodedata.normalize("NFKD", prompt)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Mn"))
    return re.sub(r"\s+", " ", text.casefold().translate(LOOKALIKES))


def _pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """Any of the phrases, as whole words; a trailing * takes any ending. A space also matches a hyphen."""
    parts = [re.escape(phrase).replace(r"\*", r"\w*").replace(r"\ ", r"[ \-]") for phrase in phrases]
    return re.compile(r"(?<!\w)(?:" + "|".join(sorted(parts, key=len, reverse=True)) + r")(?!\w)")


def _found(pattern: re.Pattern[str], texts: Iterable[str]) -> bool:
    return any(pattern.search(text) for text in texts)


def _names_minor_age(text: str) -> bool:
    return any(int(match[1] or match[2]) < ADULT for match in AGE.finditer(text))


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("impasto.engine.safety").joinpath("rules.toml").read_text(encoding="utf-8"))
