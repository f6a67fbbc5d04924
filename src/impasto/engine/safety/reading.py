"""A prompt as it may be meant, and the patterns that are looked for in it.

A reading undoes one way of hiding a word: odd Unicode, digits for letters, letters set apart, letters repeated.
"""

import re
import unicodedata
from collections.abc import Iterable

# Letters of other scripts that look Latin.
LOOKALIKES = str.maketrans("аесорхуіѕјԁԛкмнтвαοερικνυτ", "aecopxyisjdqkmhtbaoepiknut")
LEET = str.maketrans("013457@$!|€", "oieastasiie")
APART = re.compile(r"(?<![^\W_])[^\W_]([\W_]{1,2})(?:[^\W_]\1)+[^\W_](?![^\W_])")
REPEATED = re.compile(r"([^\W\d_])\1{2,}")
# Scripts that part no words, or glue endings on: what is looked for may stand anywhere.
UNPARTED = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def readings(prompt: str) -> list[str]:
    """`prompt` as it may be meant, without doubles: folded; digits read as letters; letters pulled together."""
    plain = fold(prompt)
    leet = plain.translate(LEET)
    together = [pulled_together(plain), pulled_together(leet), fold(pulled_together(prompt))]
    squeezed = [REPEATED.sub(r"\1", text) for text in (leet, *together)]
    spaced = re.sub(r"[_\-]+", " ", plain)
    return list(dict.fromkeys((plain, leet, spaced, *together, *squeezed)))


def pulled_together(text: str) -> str:
    """Letters set apart by spaces or dots as the words that they spell."""
    return APART.sub(_join, text)


def fold(prompt: str) -> str:
    """Lower case without accents, invisible characters and lookalike letters."""
    text = unicodedata.normalize("NFKD", prompt)
    text = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Mn"))
    return re.sub(r"\s+", " ", text.casefold().translate(LOOKALIKES))


def pattern(phrases: Iterable[str]) -> re.Pattern[str]:
    """Any of the phrases, as whole words of a reading; a * takes any letters. A space also matches a hyphen."""
    words, anywhere = list[str](), list[str]()
    for phrase in phrases:
        part = re.escape(fold(phrase)).replace(r"\*", r"\w*").replace(r"\ ", r"[ \-]")
        (anywhere if UNPARTED.search(phrase) else words).append(part)
    either = [r"(?<!\w)(?:" + _longest_first(words) + r")(?!\w)"] if words else []
    return re.compile("|".join([*either, *anywhere]))


def _longest_first(parts: list[str]) -> str:
    return "|".join(sorted(parts, key=len, reverse=True))


def _join(run: re.Match[str]) -> str:
    """Letters set apart → the word, and the word without its first letter: "a n u d e" has an article before it."""
    word = re.sub(r"[\W_]", "", run[0])
    return f"{word} {word[1:]}"
