"""The one rule that no setting switches off: nothing sexual with minors. Words of `rules.toml`; docs/safety.md.

Refused is a prompt that names a minor, and a sexual act, or nudity, or something suggestive: wherever in the prompt,
whoever the words belong to. One exception: nudity that a work of art has and that a minor is said to be near
("children looking at a nude statue"), unless the work shows a minor.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from impasto.engine.safety.reading import fold, pattern

SUGGESTIVE = 0.5  # scores of sexual words from which they count …
NUDITY = 0.65
ACT = 0.8  # … and from which no exception holds
ADULT = 18
MOST_WORKS = 16
"""Naked works of art beside a minor that are looked at one by one; a prompt with more is refused unread."""

_NUMBERS: str = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
)
_NUMBER = rf"(\d{{1,2}}|{_NUMBERS})"
_OLD = r"(?:yo|y/o|y\.o|jahre?|jahrig\w*|ans|anos|anni|lat|letn\w*|jaar|jarig\w*|yas\w*|лет\w*|года?)"
_YEARS_OLD = r"(?:years?|yrs?|yr|months?)[ \-]*olds?"
AGE = re.compile(
    rf"(?<!\w){_NUMBER}[ \-]*(?:{_YEARS_OLD}|{fold(_OLD)})(?!\w)"
    rf"|(?<!\w)(?:aged?|girl|boy|student|child)(?: of)? {_NUMBER}(?![\w.])"
    rf"|(\d{{1,2}}) ?(?:岁|歳|才|{fold('살|세')})"
)


_EYE = re.compile(r"(?<!\w)(?:eyes?|iris(?:es)?|cornea|eyeballs?)(?!\w)")
_PUPIL = re.compile(r"(?<!\w)pupils?(?!\w)")


class Minors:
    """`sexual`: the rules' sexual words with their scores."""

    def __init__(self, table: Mapping[str, Any], sexual: Sequence[tuple[float, re.Pattern[str]]]) -> None:
        minors, art = table["minors"], table["art"]
        self._always = pattern(minors["words"])
        self._perhaps = pattern(minors["perhaps"])
        self._animals = re.compile(rf"(?<!\w)(?:baby|babies|kids?)[ \-](?={pattern(minors['animals']).pattern})")
        self._sexual = [(score, words) for score, words in sexual if score >= SUGGESTIVE]
        self._things = pattern(art["things"]).pattern
        self._near = pattern(art["near"]).pattern
        self._seen_by = pattern(art["seen_by"]).pattern

    def refuses(self, readings: Iterable[str]) -> bool:
        """Whether one of the readings names a minor and something sexual."""
        return any(self._refuses(self._without_others(text)) for text in readings)

    def names_minor(self, readings: Iterable[str]) -> bool:
        return any(self._minor(self._without_others(text), perhaps=True) for text in readings)

    def _without_others(self, text: str) -> str:
        """The text without words that mean minors elsewhere: young animals, and the pupil of an eye."""
        text = self._animals.sub("", text)
        return _PUPIL.sub("", text) if _EYE.search(text) else text

    def _refuses(self, text: str) -> bool:
        found = [(score, hit) for score, words in self._sexual for hit in words.finditer(text)]
        if not found:
            return False
        worst = max(score for score, _ in found)
        if not self._minor(text, perhaps=worst >= NUDITY):
            return False
        if worst >= ACT or len(found) > MOST_WORKS:
            return True
        return not all(self._of_art(text, hit) for _, hit in found)

    def _minor(self, text: str, *, perhaps: bool) -> bool:
        ages = [_years(match) for match in AGE.finditer(text)]
        if self._always.search(text) or any(age < ADULT for age in ages):
            return True
        return perhaps and not ages and bool(self._perhaps.search(text))

    def _of_art(self, text: str, hit: re.Match[str]) -> bool:
        """Whether the nudity at `hit` is that of a work of art which a minor is near, and which shows none."""
        before, after = text[: hit.start()], text[hit.end() :]
        adjective = re.match(rf"(?P<between>(?:[ \-][^\W\d]+){{0,2}}?)[ \-](?:{self._things})", after)
        if adjective is None or self._minor(adjective["between"], perhaps=True):
            return False
        rest = after[adjective.end() :]
        shown = re.match(r" (?:of|showing|depicting|with|as)(?: \w+){1,6}", rest)
        if shown is not None and self._minor(shown[0], perhaps=True):
            return False
        looks_up = re.search(rf"(?:{self._near})(?: [\w'’]+){{0,3}} ?$", before)
        if looks_up is not None and self._minor(before[: looks_up.start()], perhaps=True):
            return not self._minor(before[looks_up.start() :], perhaps=True) and not self._minor(rest, perhaps=True)
        return not self._minor(before, perhaps=True) and re.search(self._seen_by, rest) is not None


def _years(match: re.Match[str]) -> int:
    number = str(match[match.lastindex or 0])
    return int(number) if number.isdigit() else _NUMBERS.split("|").index(number) + 1
