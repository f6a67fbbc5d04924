"""The interface of a safety check, and how one is found by name."""

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Protocol

from impasto.engine.pipeline import Pixels
from impasto.errors import ConfigError
from impasto.plugins import named

GROUP = "impasto.safety"  # of entry points
SEXUAL_MINORS = "sexual_minors"  # a verdict of this category refuses the request, whatever the settings


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` 0 (harmless) to 1. `category` and `reason` are for the caller's logs; the reason quotes no prompt."""

    flagged: bool
    score: float
    category: str = ""
    reason: str = ""


class PromptCheck(Protocol):
    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        """`tolerance` 1 (strictest) to 6. What it raises fails the request."""
        ...


class PictureCheck(Protocol):
    def judge(self, pixels: Pixels, *, tolerance: int) -> Verdict:
        """`pixels` uint8 [H, W, 3]. Called from the finisher's thread."""
        ...


def find(name: str, *, setting: str) -> Any:
    """The factory called `name`: "module:attribute", or an entry point of the group. Raises ConfigError."""
    if ":" in name:
        return named(name, setting=setting)
    try:
        for entry in entry_points(group=GROUP, name=name):
            return entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{setting} = {name!r} cannot be loaded: {error}. Mend or uninstall its package.") from error
    raise ConfigError(
        f"{setting} = {name!r} is not known. Name a shipped check, an entry point of the group {GROUP}, or module:name."
    )
