"""Pictures as coloured half blocks, and only where a terminal says that it shows them."""

import io
import re

import pytest
from PIL import Image

from impasto import terminal


class Screen(io.StringIO):
    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_the_upper_pixel_is_the_block_and_the_lower_one_its_ground():
    image = Image.new("RGB", (2, 2), "red")
    image.paste("blue", (0, 1, 2, 2))
    assert terminal.lines(png(image), columns=2) == ["\x1b[38;2;255;0;0;48;2;0;0;255m▀" * 2 + "\x1b[0m"]


@pytest.mark.parametrize(("width", "height", "rows"), [(1024, 768, 18), (512, 512, 24), (2048, 16, 1), (576, 1024, 43)])
def test_the_proportions_are_kept(width: int, height: int, rows: int):
    found = terminal.lines(png(Image.new("RGB", (width, height))))
    assert len(found) == rows
    assert {len(re.findall("▀", line)) for line in found} == {terminal.COLUMNS}


@pytest.mark.parametrize(
    ("tty", "environment", "shown"),
    [
        (True, {"COLORTERM": "truecolor"}, True),
        (True, {"TERM": "xterm-direct"}, True),
        (True, {"TERM": "xterm"}, False),
        (True, {"COLORTERM": "truecolor", "NO_COLOR": "1"}, False),
        (False, {"COLORTERM": "truecolor"}, False),
    ],
)
def test_only_a_terminal_with_colours_gets_one(tty: bool, environment: dict[str, str], shown: bool):
    assert terminal.shows_pictures(Screen(tty=tty), environment) is shown
