"""X-Impasto-Warnings: plain JSON that any header can carry, however many notices and whatever they say."""

import json
import re
from pathlib import Path

import impasto
from impasto.engine.job import Notice
from impasto.fleet.work import MAX_WARNINGS, WARNINGS, warnings


def test_no_notice_no_header() -> None:
    assert warnings(()) == {}


def test_a_notice_is_code_message_and_field() -> None:
    notice = Notice(code="size_rounded", message="rounded", field="image_size")
    items = json.loads(warnings((notice, Notice(code="other", message="x")))[WARNINGS])
    assert items == [
        {"code": "size_rounded", "message": "rounded", "field": "image_size"},
        {"code": "other", "message": "x"},
    ]


def test_nothing_in_a_message_can_break_the_header() -> None:
    text = warnings((Notice(code="c", message='a\r\nSet-Cookie: x=1\0 "ü🍏" \x7f'),))[WARNINGS]
    assert text.isascii()
    assert "\n" not in text
    assert "\r" not in text
    assert json.loads(text)[0]["message"].startswith("a\r\nSet-Cookie")


def test_too_many_are_counted() -> None:
    text = warnings([Notice(code="c", message="é" * 1000, field="f")] * 50)[WARNINGS]
    assert len(text) < MAX_WARNINGS
    *kept, more = json.loads(text)
    assert kept
    assert more == {"code": "more", "message": f"and {50 - len(kept)} more in the logs"}


def test_the_documented_codes_are_those_that_the_program_has() -> None:
    package = Path(impasto.__file__).parent
    sources = "".join(path.read_text("utf-8") for path in package.rglob("*.py"))
    page = (package.parents[1] / "docs" / "warnings.md").read_text("utf-8")
    _, *documented = re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE)  # the first is the table's head
    assert len(documented) == len(set(documented))
    assert set(documented) == set(re.findall(r'Notice\(\s*code="([a-z_]+)"', sources))
