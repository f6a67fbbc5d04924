"""Other people's text: no control character of it reaches a terminal, no secret of a URL a log."""

import io
import logging

import pytest

from impasto import telemetry
from impasto.plain import bare_url, bare_urls, printable

FORGED = "style\n12:31:07 INFO    Key created\r\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.exe\u2028\x00\ud800"
MOVING = [*range(32), *range(127, 160), 0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF]


def test_every_character_that_moves_colours_or_reverses_is_escaped() -> None:
    shown = printable(FORGED)
    assert shown.isprintable()
    assert shown.startswith("style\\n12:31:07")
    for word in ("\\x1b[2J", "\\x07", "\\x9b31m", "\\u202e", "\\u2028", "\\x00", "\\ud800"):
        assert word in shown
    assert printable("".join(map(chr, MOVING))).isascii()
    assert printable("a\nb\r", lines=True) == "a\nb\\r"


@pytest.mark.parametrize(
    "text", ["a red apple", "東京の夜", "👩\u200d🚀 family", "naïve – “quotes”", "a\u00a0b", "C:\\new"]
)
def test_words_of_all_languages_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("got https://h.example/a.png?X-Amz-Signature=5ecret&x=1.", "got https://h.example/a.png?***."),
        ("(https://user:5ecret@h.example/a)", "(https://***@h.example/a)"),
        ("HTTPS://h.example?sig=5ecret, then", "HTTPS://h.example?***, then"),
        ("'s3://b/k#5ecret' and https://x/?a='5ecret'", "'s3://b/k?***' and https://x/?***'"),
        ("https://h.example/a?u=https://other/5ecret", "https://h.example/a?***"),
        ("http://127.0.0.1:8000/files/b/x.png is 3/4 there?", "http://127.0.0.1:8000/files/b/x.png is 3/4 there?"),
    ],
)
def test_urls_are_shown_without_query_and_user(text: str, shown: str) -> None:
    assert bare_urls(text) == shown


def test_one_url_loses_its_query_even_with_blanks_in_it() -> None:
    assert bare_url("https://u:p@h.example/a b?sig=5 ecret#x") == "https://h.example/a b"
    assert bare_url("owner/name") == "owner/name"


@pytest.mark.parametrize("own_handler", [False, True])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("logger", ["impasto.test", "uvicorn.error", "asyncio", "torch"])
def test_no_logger_writes_a_forged_line_nor_a_signature(logger: str, plain: bool, own_handler: bool) -> None:
    """Cover libraries that add a handler of their own when they are imported, as torch does."""
    stream = io.StringIO()
    root, ours, theirs = logging.getLogger(), logging.getLogger("impasto"), logging.getLogger(logger)
    if own_handler:
        theirs.addHandler(logging.StreamHandler(stream))
        theirs.propagate = False
    former = list(root.handlers), root.level, ours.level
    try:
        telemetry.configure("info", stream=stream, plain=plain)
        try:
            raise ValueError(f"{FORGED} https://h.example/x?sig=5ecret\nERROR forged")
        except ValueError:
            logging.getLogger(logger).exception("Refused: %s", f"{FORGED} https://h.example/x?sig=5ecret")
    finally:
        root.handlers[:] = former[0]
        root.setLevel(former[1])
        ours.setLevel(former[2])
    first, *below = stream.getvalue().splitlines()
    assert "Refused: style" in first
    assert below
    assert all(line.startswith("    ") for line in below)
    assert "5ecret" not in stream.getvalue()
    assert all(line.isprintable() for line in (first, *below))
