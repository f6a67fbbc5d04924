"""`impasto watch ID`: follow one request on a server from the terminal, to its pictures.

In: a request id, or any URL of the request. Out: a line that is rewritten in a terminal, lines of their own elsewhere;
then the URLs of the pictures. It reads the public wire: platform API (whose endpoint), status stream, result.
"""

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from impasto import terminal
from impasto.client.hosts import is_fal, server_url
from impasto.errors import ConfigError, ImpastoError
from impasto.plain import printable

TRIES = 5  # to take up a broken stream
STREAM_SECONDS = 60.0  # of silence; the server sends a comment every ten
_OF_URL = re.compile(r"(?:/queue)*/(?P<app>.+)/requests/(?P<id>[0-9a-f-]{36})(?:/.*)?")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class WatchError(ImpastoError):
    """The request cannot be followed."""


class Unreachable(WatchError):
    """There is no server just now, or one that cannot answer."""


@dataclass(slots=True)
class Server:
    """One server's HTTP, as one key."""

    base: str
    key: str | None = None

    def open(self, path: str) -> Any:
        """The answer to a GET, to be read. Raises `WatchError` that says what is wrong."""
        headers = {"Authorization": f"Key {self.key}"} if self.key else {}
        asked = urllib.request.Request(path if "://" in path else self.base + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this network
        try:
            return opener.open(asked, timeout=STREAM_SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise (Unreachable if error.code >= 500 else WatchError)(_explain(error)) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(f"No server answers at {self.base} ({reason}). Name another with --url.") from None

    def json(self, path: str) -> Any:
        with self.open(path) as answer:
            return json.load(answer)


def origin(which: str) -> str | None:
    """The server that a request's URL names; None for an id, and for fal's names, which our server goes by, too."""
    if "://" not in which:
        return None
    url = server_url(which.partition("?")[0])
    return None if is_fal(url.hostname or "") else f"{url.scheme}://{url.netloc}"


def watch(which: str, *, url: str, key: str | None, pictures: bool, out: TextIO, err: TextIO) -> int:
    """Follow `which` to its end; → exit status, 0 if it brought pictures. Raises `ConfigError`, `WatchError`."""
    server_url(url)
    server = Server(url, key)
    app, request_id = _find(which, server)
    path = f"/queue/{app}/requests/{request_id}"
    board = _Board(err)
    last = _follow(server, path, board)
    board.end()
    if "error" in last:
        print(printable(f"{last['error']} ({last['error_type']})"), file=err)
        return 1
    output = server.json(path)
    for image in output.get("images", []):
        print(printable(image["url"][:200]), file=out)
        if pictures and image["url"].startswith("http"):
            with server.open(_on(server.base, image["url"])) as answer:
                print("\n".join(terminal.lines(answer.read())), file=err)
    return 0


def _find(which: str, server: Server) -> tuple[str, str]:
    """(app, request id). The platform API knows which endpoint an id belongs to."""
    if found := _OF_URL.fullmatch(urlsplit(which).path):
        return found["app"], found["id"]
    if not _ID.fullmatch(which):
        raise ConfigError(f"{which!r} is neither a request id nor the URL of a request.")
    page = server.json(f"/v1/requests?request_id={quote(which)}&limit=1")
    if not page["items"]:
        raise WatchError(f"The server has no request {which} of this key.")
    parts = page["items"][0]["endpoint_id"].split("/")
    return "/".join(parts[: 3 if parts[0] in {"workflows", "comfy"} else 2]), which


def _follow(server: Server, path: str, board: "_Board") -> dict[str, Any]:
    """The COMPLETED status; the stream is taken up again when it breaks."""
    for again in range(TRIES):
        board.begin()
        try:
            with server.open(f"{path}/status/stream?logs=1&previews=1") as answer:
                for status in _events(answer):
                    board.show(status)
                    if status["status"] == "COMPLETED":
                        return status
        except Unreachable:
            if not board.heard:
                raise
            board.note("The server does not answer; once more.")
        except (OSError, ValueError, HTTPException) as error:
            board.note(f"The connection broke ({error}); once more.")
        time.sleep(0.2 * 2**again)
    raise WatchError("The status stream breaks again and again; the request goes on at the server.")


def _events(answer: Any) -> Iterator[dict[str, Any]]:
    for line in answer:
        if line.startswith(b"data:"):
            yield json.loads(line[5:])


@dataclass(slots=True)
class _Board:
    """Where the state stands: one line that changes in a terminal, a line a change elsewhere."""

    err: TextIO
    shown: str = ""
    heard: bool = False
    logs: int = 0  # lines told
    line: int = 0  # of the stream, which tells all of them

    def begin(self) -> None:
        """Another stream."""
        self.line = 0

    def show(self, status: dict[str, Any]) -> None:
        self.heard = True
        for line in status.get("logs") or []:
            self.line += 1
            if self.line > self.logs:
                self.logs = self.line
                self.note(line["message"])
        self._state(_sentence(status))

    def note(self, text: str) -> None:
        text = printable(text)
        clear = "\r\x1b[K" if self.err.isatty() else ""
        print(f"{clear}{text}", file=self.err, flush=True)
        if clear:
            print(self.shown, end="", file=self.err, flush=True)

    def _state(self, text: str) -> None:
        text = printable(text)
        if text == self.shown:
            return
        self.shown = text
        if self.err.isatty():
            print(f"\r\x1b[K{text}", end="", file=self.err, flush=True)
        elif "%" not in text:  # steps only where they overwrite each other
            print(text, file=self.err, flush=True)

    def end(self) -> None:
        if self.err.isatty():
            print(file=self.err)


def _sentence(status: dict[str, Any]) -> str:
    match status["status"]:
        case "IN_QUEUE":
            ahead = status["queue_position"]
            return f"In the queue, {ahead} before it" if ahead else "Next in the queue"
        case "IN_PROGRESS":
            share = status.get("progress", 0.0)
            filled = round(share * 30)
            return f"Drawing [{'#' * filled}{'.' * (30 - filled)}] {share:.0%}" if share else "Drawing"
        case _:
            seconds = status.get("metrics", {}).get("inference_time")
            return "Failed" if "error" in status else f"Done in {seconds:.2f} s" if seconds is not None else "Done"


def _on(base: str, url: str) -> str:
    """A file's URL on the host that we reach, whatever host the one who submitted had used."""
    return base + urlsplit(url).path


def _explain(error: urllib.error.HTTPError) -> str:
    try:
        body = json.loads(error.read())
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {"detail": str(body)}
    detail = body.get("detail") or body.get("error") or body.get("status") or error.reason
    text = detail.get("message", "") if isinstance(detail, dict) else detail  # pyright: ignore[reportUnknownVariableType]
    hint = " Set FAL_KEY or --key." if error.code == 401 else ""
    return f"The server answers {error.code}: {text}.{hint}"
