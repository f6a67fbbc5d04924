"""What the operator reads: one line an event on stderr, with the request it belongs to and without any key.

In: records of the standard `logging` module. Out: lines such as

    12:31:07 INFO  [5f0c…e2] runner-1 took it (attempt 1)

`configure` is called once by each process; `request_id` is set by whoever works on a request. Every line, of whatever
logger, has control characters escaped and URLs without their queries; a traceback is indented below its line: no text
of a caller begins a line of its own.
"""

import logging
import re
import sys
from contextvars import ContextVar
from typing import ClassVar, TextIO

from impasto.plain import bare_urls, printable

request_id: ContextVar[str] = ContextVar("impasto_request_id", default="")
"""Id of the request that the current task works on; "" outside of any."""

HIDDEN = "***"
_SECRETS = (
    # key_id:secret, wherever it stands
    (re.compile(r"\b([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):[\w-]{8,}", re.IGNORECASE), r"\1:" + HIDDEN),
    # Authorization: Key abc
    (re.compile(r"\b(authorization\W{1,5}(?:\w+\s+)?)[^\s\"']+", re.IGNORECASE), r"\1" + HIDDEN),
    # Bearer abc; a word without digit or inner colon is prose ("Key created:")
    (
        re.compile(r"\b(key|bearer|basic)(\s+)(?=[^\s\"']*(?:\d|:[^\s\"']))[^\s\"']{8,}", re.IGNORECASE),
        r"\1\2" + HIDDEN,
    ),
    # a signed link, a signed upload URL
    (re.compile(r"([?&](?:identity|upload)=)[^\s\"'&]+"), r"\1" + HIDDEN),
    # fal_key=abc, "token": "abc"
    (
        re.compile(r"\b(\w*(?:token|secret|password|api_?key|fal_?key))(\"?\s*[=:]\s*\"?)[^\s\"'&,}]+", re.IGNORECASE),
        r"\1\2" + HIDDEN,
    ),
)


def redact(text: str) -> str:
    """`text` with every API key, bearer token, password and signature replaced by `***`."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class _Formatter(logging.Formatter):
    """What both formats have in common: what may stand in a line."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        below = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        if record.stack_info:
            below += record.stack_info.splitlines()
        return "\n    ".join(redact(bare_urls(printable(line))) for line in (self.formatMessage(record), *below))


class LineFormatter(_Formatter):
    """Time, level, request id and message, redacted; colours only where somebody looks."""

    _COLOURS: ClassVar[dict[str, str]] = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}

    def __init__(self, *, colour: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(prefix)s%(message)s", datefmt="%H:%M:%S")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        current = request_id.get()
        record.prefix = f"[{current}] " if current else ""
        line = super().format(record)
        paint = self._COLOURS.get(record.levelname) if self._colour else None
        return f"{paint}{line}\x1b[0m" if paint else line


class PlainFormatter(_Formatter):
    """`LEVEL message`, for a process whose stderr another one reads (`fleet.local` adds time and name)."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(message)s")


def configure(level: str = "info", *, stream: TextIO | None = None, plain: bool = False) -> None:
    """Send our log lines to `stream` (default: stderr) from `level` on: debug | info | warning | error.

    Calling it again replaces the former set-up. Other libraries' lines pass from warning on.
    """
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    handler.setFormatter(PlainFormatter() if plain else LineFormatter(colour=target.isatty()))
    root = logging.getLogger()
    for former in [h for h in root.handlers if getattr(h, "impasto", False)]:
        root.removeHandler(former)
    handler.impasto = True  # pyright: ignore[reportAttributeAccessIssue]
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("impasto").setLevel(level.upper())
    adopt()


def adopt() -> None:
    """Send the lines of libraries that write to a terminal by themselves (torch, transformers) through our handler.

    They add their handler when they are imported, so this is called again behind their import. Handlers that write
    elsewhere, such as to a file, stay.
    """
    for logger in list(logging.Logger.manager.loggerDict.values()):
        own = [each for each in getattr(logger, "handlers", ()) if type(each) is logging.StreamHandler]
        if isinstance(logger, logging.Logger) and own:
            for handler in own:
                logger.removeHandler(handler)
            logger.propagate = True
