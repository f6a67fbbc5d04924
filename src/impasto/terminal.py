"""A terminal: other people's text without its control characters, and images, of which every character is two pixels.

In: image bytes. Out: lines of text for a terminal that shows 24-bit colours, which nearly all of today's do.
"""

import io
from collections.abc import Mapping
from typing import TextIO

import click

from impasto.plain import printable

COLUMNS = 48  # of a preview


def say(text: str, *, err: bool = False) -> None:
    """Print text that may hold other people's words. Line breaks stay: escape what must be one line before."""
    click.echo(printable(text, lines=True), err=err)


def shows_pictures(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `stream` is a terminal that says it shows 24-bit colours, and nobody asked for none (NO_COLOR)."""
    if not stream.isatty() or environment.get("NO_COLOR"):
        return False
    colours = environment.get("COLORTERM", "").lower() in {"truecolor", "24bit"}
    return colours or environment.get("TERM", "").endswith("-direct")


def lines(data: bytes, *, columns: int = COLUMNS) -> list[str]:
    """The picture of image bytes (JPEG, PNG), `columns` wide in its own proportions."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        height = max(round(columns * image.height / image.width / 2), 1) * 2
        small = image.convert("RGB").resize((columns, height), Image.Resampling.BOX)
    pixels = small.tobytes()

    def colour(x: int, y: int) -> str:
        at = 3 * (y * columns + x)
        return f"{pixels[at]};{pixels[at + 1]};{pixels[at + 2]}"

    return [
        "".join(f"\x1b[38;2;{colour(x, y)};48;2;{colour(x, y + 1)}m▀" for x in range(columns)) + "\x1b[0m"
        for y in range(0, height, 2)
    ]
