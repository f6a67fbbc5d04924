"""What a small model has learned to draw, by name: which words of a prompt say nothing to it, and what it can draw
instead.

What comes in: the list that the training wrote into the checkpoint's config.json. What goes out: a `Reading` of a
prompt, and the known thing whose name is nearest to words that are not known. FLUX.1 has no such list, and needs none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_TOKEN = re.compile(r"\d+[^\W\d_]*|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_FUNCTION_WORDS = frozenset(
    _TOKEN.findall("""
        a an the this that these those some any no and or but of in on at by for from to into onto with without as is
        are be was were am been it its it's i i'd me my you your we us our he him his she her they them their who which
        what there here please could would can will shall may might should do does did have has had like want see show
        shows showing draw draws drawing paint make makes create give get let nothing else only just very so more most
        much many few each every all both other another own same one against such than then too not one's
        up down out off near nice good best quality portrait photo photograph picture image art style
    """)
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model understands of a prompt: the names of the `things` in it, and the words `unknown` to it, in the
    prompt's order.
    """

    things: tuple[str, ...]
    unknown: tuple[str, ...]


class Vocabulary:
    """The things that a model has learned, each with its other names, and the other words of its training captions."""

    def __init__(self, things: Mapping[str, tuple[str, ...]], words: frozenset[str]) -> None:
        self.things = things
        self._words = words
        self._names = {_split(word): name for name, others in things.items() for word in (name, *others)}
        self._longest = max(map(len, self._names), default=0)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Vocabulary | None:
        """The vocabulary in a checkpoint's config.json; None where it states none."""
        stated = config.get("vocabulary")
        if stated is None:
            return None
        return cls({name: tuple(others) for name, others in stated["things"].items()}, frozenset(stated["words"]))

    def read(self, prompt: str) -> Reading:
        """Looks every word up, longest names first. Numbers, function words and plurals of known names are known."""
        tokens = _split(prompt)
        things: list[str] = []
        unknown: list[str] = []
        place = 0
        while place < len(tokens):
            for length in range(min(self._longest, len(tokens) - place), 0, -1):
                name = self._named(tokens[place : place + length])
                if name is not None:
                    things.append(name)
                    place += length
                    break
            else:
                if not self._known(tokens[place]):
                    unknown.append(tokens[place])
                place += 1
        return Reading(tuple(dict.fromkeys(things)), tuple(dict.fromkeys(unknown)))

    def _named(self, tokens: tuple[str, ...]) -> str | None:
        singular = (*tokens[:-1], tokens[-1].removesuffix("s"))
        return self._names.get(tokens) or self._names.get(singular)

    def _known(self, token: str) -> bool:
        return token.isdigit() or token in self._words or token in _FUNCTION_WORDS


class Nearest:
    """Finds the thing whose name means most nearly the same as some words, by the angle between their mean states."""

    def __init__(self, vocabulary: Vocabulary, states: Callable[[list[str]], Tensor]) -> None:
        self._vocabulary, self._states = vocabulary, states

    def __call__(self, words: str) -> str:
        names, states = self._table
        return names[int((states @ F.normalize(self._states([words])[0], dim=0)).argmax())]

    @cached_property
    def _table(self) -> tuple[list[str], Tensor]:
        # some hundred names take the encoder a second, and few prompts need them
        pairs = [(name, word) for name, others in self._vocabulary.things.items() for word in (name, *others)]
        batches = [[word for _, word in pairs[start : start + 32]] for start in range(0, len(pairs), 32)]
        states = torch.cat([self._states(batch) for batch in batches])
        return [name for name, _ in pairs], F.normalize(states, dim=-1)


def _split(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text.lower()))
