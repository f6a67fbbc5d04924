"""Other people's code, found by the name "module:attribute"."""

import os
import sys
from importlib import import_module
from typing import Any

from impasto.errors import ConfigError

FAULTS = (
    ImportError, AttributeError, SyntaxError, NameError, TypeError, ValueError, RuntimeError, LookupError,
    ArithmeticError, AssertionError, OSError, ConfigError,
)  # fmt: skip
"""What somebody's code may raise at the start: the message has to name it, not show a traceback."""


def named(name: str, *, setting: str) -> Any:
    """The object called "module:attribute"; modules of the current folder are found, too. Raises ConfigError."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{setting} = {name!r} is not understood. Name it as module:attribute.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a random.py in it is not the standard library's
    try:
        found = import_module(module)
    except FAULTS as error:
        raise ConfigError(
            f"{setting} = {name!r}: module {module} cannot be loaded ({type(error).__name__}: {error}). "
            "Install it or start in its folder, and name it as module:attribute."
        ) from error
    try:
        return getattr(found, attribute)
    except AttributeError:
        known = ", ".join(name for name in vars(found) if not name.startswith("_"))
        raise ConfigError(
            f"{setting} = {name!r}: module {module} ({found.__file__}) has no {attribute}. It has: {known}."
        ) from None
