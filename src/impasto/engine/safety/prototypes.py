"""The shipped prompt check: the rules' words, weighed by what the sentence as a whole means.

A prompt and each of its clauses are compared with the sentences of `prototypes.toml`. `Prototypes` says how much
nearer the unsafe ones are than the innocent ones; `RulesAndPrototypes` makes that and the worst word found into one
probability by a logistic curve (fitted on benchmarks/safety_prompts/train: `python benchmarks/safety.py --fit`).
"""

import math
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from impasto.engine.safety.base import SEXUAL_MINORS, Verdict
from impasto.engine.safety.pictures import threshold_of
from impasto.engine.safety.reading import pulled_together
from impasto.engine.safety.rules import Rules
from impasto.engine.safety.sentences import Embed, MiniLM, Vectors

CLAUSE = re.compile(r"[.,;:!?()\[\]|\n]+")
RUN = 24  # words read together
SURE = 0.7  # probability from which meaning alone refuses
MAX_PIECES = 32  # of a prompt; what lies beyond is read by the rules alone


@dataclass(frozen=True, slots=True)
class Near:
    """`odds`: log of how much of the nearness is to unsafe sentences. `category`, `severity`: of those."""

    odds: float
    category: str
    severity: float


@dataclass(frozen=True, slots=True)
class Finding:
    word: tuple[float, str]  # score and category of the worst one
    near: Near


class Prototypes:
    """Kernel regression on unit vectors: a prototype weighs exp(cosine / temperature)."""

    def __init__(self, table: Mapping[str, Any], embed: Embed) -> None:
        groups: list[dict[str, Any]] = table["groups"]
        vectors = embed([sentence for group in groups for sentence in group["sentences"]])
        self._embed = embed
        self._temperature = float(table["temperature"])
        # What all sentences have in common says nothing.
        self._mean = vectors.mean(axis=0)
        self._vectors = _unit(vectors - self._mean)
        self._scores = np.array([group["score"] for group in groups for _ in group["sentences"]], np.float32)
        names = [group["category"] for group in groups for _ in group["sentences"]]
        self._members = {name: np.array([name == other for other in names]) for name in set(names) - {""}}

    def near(self, sentences: Sequence[str]) -> list[Near]:
        cosines = _unit(self._embed(sentences) - self._mean) @ self._vectors.T
        return [self._near(row) for row in np.exp(cosines / self._temperature)]

    def _near(self, weights: Vectors) -> Near:
        unsafe = np.where(self._scores > 0, weights, 0)
        shares = {name: float(unsafe[members].sum()) for name, members in self._members.items()}
        total = float(unsafe.sum())
        odds = math.log(total / float(weights.sum() - total))
        return Near(odds, max(shares, key=shares.__getitem__), float(unsafe @ self._scores) / total)


class RulesAndPrototypes:
    """`thresholds`: score from which a prompt is flagged, for tolerance 1 to 6."""

    def __init__(self, rules: Rules, table: Mapping[str, Any], embed: Embed, thresholds: Sequence[float]) -> None:
        self._rules = rules
        self._prototypes = Prototypes(table, embed)
        self._curve: Mapping[str, float] = table["curve"]
        self._thresholds = thresholds
        self.findings = lru_cache(1)(self._findings)  # a prompt is judged more than once

    @classmethod
    def load(cls, thresholds: Sequence[float]) -> "RulesAndPrototypes":
        """Raises WeightsError."""
        return cls(Rules.load(thresholds), _table(), MiniLM(), thresholds)

    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        refused = self.sexual_minors(prompt)
        if refused.flagged:
            return refused
        score, category = max(map(self._score, self.findings(prompt)), default=self._rules.worst(prompt))
        flagged = score >= threshold_of(self._thresholds, tolerance)
        return Verdict(flagged, score, category, f"prompt check: {category}")

    def forget(self) -> None:
        """Once a request's prompt is judged: the same words from somebody else must not be answered any sooner."""
        self.findings.cache_clear()

    def sexual_minors(self, prompt: str) -> Verdict:
        """As the rules say it. Beside a minor, what is sexual in meaning counts too, where no word is sexual: where one
        is, the rules have judged whose it is.
        """
        verdict = self._rules.sexual_minors(prompt)
        if verdict.flagged or self._rules.worst(prompt)[1] == "sexual" or not self._rules.names_minor(prompt):
            return verdict
        sure = any(f.near.category == "sexual" and self._unsafe(f) >= SURE for f in self.findings(prompt))
        return Verdict(True, 1.0, SEXUAL_MINORS, "prompt check: sexual content with minors") if sure else verdict

    def _findings(self, prompt: str) -> list[Finding]:
        """What words and meaning say of the prompt and its clauses; nothing of those in scripts unknown to MiniLM."""
        worst = self._rules.worst(prompt)
        known = [piece for piece in pieces(pulled_together(prompt)) if readable(piece)]
        nears = self._prototypes.near(known) if known else []
        # A clause cut out of its phrase may hold a word that the whole prompt's allow-list takes out.
        return [Finding(min(self._rules.worst(piece), worst), near) for piece, near in zip(known, nears, strict=True)]

    def _unsafe(self, finding: Finding) -> float:
        """The probability that it is."""
        curve = self._curve
        return 1 / (1 + math.exp(-curve["start"] - curve["near"] * finding.near.odds - curve["word"] * finding.word[0]))

    def _score(self, finding: Finding) -> tuple[float, str]:
        """How likely times how bad; a word counts whole unless its sentence is more likely innocent."""
        unsafe, (score, category), near = self._unsafe(finding), finding.word, finding.near
        if score > 0 and unsafe >= 0.5:
            return max((score, category), (unsafe * near.severity, near.category))
        return unsafe * max(score, near.severity), category or near.category


def pieces(prompt: str) -> list[str]:
    """The prompt and its clauses of 3 words or more ("wet hair" alone says little), in runs of at most 24 words that
    overlap by half.
    """
    parts = [prompt.split(), *(clause for clause in map(str.split, CLAUSE.split(prompt)) if len(clause) >= 3)]
    return list(dict.fromkeys(run for part in parts for run in _runs(part)))[:MAX_PIECES]


def _runs(words: list[str]) -> list[str]:
    starts = range(0, max(len(words) - RUN // 2, 1), RUN // 2)
    return [" ".join(words[start : start + RUN]) for start in starts]


def readable(piece: str) -> bool:
    """Whether the encoder knows the script: it read English."""
    letters = [char for char in unicodedata.normalize("NFKD", piece) if char.isalpha()]
    return sum(char.isascii() for char in letters) > 0.7 * len(letters)


def _unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("impasto.engine.safety").joinpath("prototypes.toml").read_text(encoding="utf-8"))
