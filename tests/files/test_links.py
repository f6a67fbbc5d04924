"""Signed links: one file, one moment, and every changed character is noticed."""

import pytest

from impasto.files.links import identity, opens

SECRET, TOKEN = b"s" * 32, "b/00000000/abcdefghijklmnopqrstuv.png"


def test_a_link_opens_its_file_until_it_is_over():
    text = identity(TOKEN, until=1000, secret=SECRET)
    assert opens(text, TOKEN, now=999.9, secret=SECRET)
    assert not opens(text, TOKEN, now=1000, secret=SECRET)


def test_it_opens_nothing_else_and_nowhere_else():
    text = identity(TOKEN, until=1000, secret=SECRET)
    assert not opens(text, TOKEN.replace("a", "b"), now=1, secret=SECRET)
    assert not opens(text, TOKEN, now=1, secret=b"t" * 32)


def test_every_changed_character_is_noticed():
    text = identity(TOKEN, until=1000, secret=SECRET)
    for place in range(len(text)):
        changed = text[:place] + ("x" if text[place] != "x" else "y") + text[place + 1 :]
        assert not opens(changed, TOKEN, now=1, secret=SECRET)


@pytest.mark.parametrize(
    "text", ["", ".", "1000", "1000.", ".x", "9" * 5000 + ".x", "\u0661." + "A" * 43, "a.b.c", "\ud800"]
)
def test_nonsense_opens_nothing(text):
    assert not opens(text, TOKEN, now=1, secret=SECRET)
