"""The LoRAs that an input names → files on this machine, for the runner to read.

Four ways in: a file of this very server, an http(s) URL (through the guarded fetcher, onto the disk piece by piece), a
file of the folder that the operator allows, and owner/name of the model hub, which is a URL in the end. What was
fetched is kept by digest in `<data>/loras`. All that can be wrong with it ends here as fal's own 422 on `loras`.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from impasto.endpoints.base import WantedLora
from impasto.engine.job import LoraInput
from impasto.errors import ModelError, WeightsError
from impasto.files.fetch import FetchError, FetchPolicy, FetchTooLarge, fetch
from impasto.files.names import Names
from impasto.flux import frame
from impasto.flux.pickles import is_pickle
from impasto.plain import bare_url
from impasto.settings import Settings

FIELD = "loras"
MIB = 1024 * 1024
MAX_HEADER = 8 * MIB  # of a safetensors file; the largest LoRAs have some hundred KB, captions in the metadata included
HUB_LISTING = 8 * MIB
AT_A_TIME = 4  # downloads of one key: slow URLs of one hold up the LoRAs of that key only
SHORTLY = 60.0  # seconds that a LoRA stays after its request was assigned, at least: the runner has to read it
FORGOTTEN = 3600.0  # seconds after which an unfinished download is nobody's: its server was killed
REMEMBERED = 1_000  # URLs, repositories and digests, each; who names more of them is asked for more downloads
USUAL_NAME = "pytorch_lora_weights.safetensors"  # diffusers' own, preferred among several

K = TypeVar("K")
V = TypeVar("V")
_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(/(?P<file>[\w./ -]+\.(?:safetensors|sft)))?")


class OwnFile(Protocol):
    """`Inputs.own_file`: where a file of this server lies that the key `reader` may read."""

    def __call__(self, url: str, base_url: str, *, field: str, reader: str) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class _Here:
    path: Path
    digest: str


class LoraFiles:
    """Brings LoRAs here. Requests that name the same URL at once share one download."""

    def __init__(self, *, settings: Settings, own: OwnFile) -> None:
        self._settings = settings.lora
        self._folder = settings.data / "loras"
        self._own = own
        # Never closed: the few look-ups that run at the end are cancelled with the loop, and no thread is waited for.
        self._host_names = Names()
        self._policy = FetchPolicy.of(settings)
        self._coming: dict[str, asyncio.Task[_Here]] = {}
        self._held: Counter[Path] = Counter()  # files that requests wait with for their other LoRAs
        self._turns: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._known: dict[str, tuple[float, _Here]] = {}  # by URL: when it was fetched
        self._names: dict[str, tuple[float, str]] = {}  # by repository of the hub: when it was asked, and its file
        self._digests: dict[tuple[str, int, int], str] = {}  # by path, mtime, size

    async def bring(
        self, wanted: Sequence[WantedLora], *, base_url: str, reader: str, any_file: bool = False
    ) -> tuple[LoraInput, ...]:
        """In their order; `reader` is the key id of the request. `any_file`: the operator himself names them, and may
        name any file of this machine. Raises ModelError (422) on `loras`, at the one that is wrong:
        file_download_error, file_too_large, value_error.
        """
        brought: list[LoraInput] = []
        mine: set[Path] = set()
        try:
            for index, each in enumerate(wanted):
                try:
                    here = await asyncio.to_thread(self._operators, each.path) if any_file else None
                    here = here or await self._bring(each.path, base_url, reader)
                    self._hold(here.path, mine)
                except ModelError as error:  # whoever found it does not know which of them it is
                    items = [item | {"loc": [*item["loc"], str(index), "path"]} for item in error.items]
                    raise ModelError(items) from None
                brought.append(
                    LoraInput(path=str(here.path), digest=here.digest, scale=each.scale, name=bare_url(each.path))
                )
        finally:
            self._let_go(mine)
        return tuple(brought)

    async def _bring(self, name: str, base_url: str, reader: str) -> _Here:
        url = name.startswith(("http://", "https://"))
        own = self._own(name, base_url, field=FIELD, reader=reader) if url else None
        if own is not None:  # whatever it is called: an upload without a name ends in .bin
            return await asyncio.to_thread(self._local, own, name)
        if is_pickle(_path_of(name)):
            raise _refused(name, "it is a pickle, which can run code; only .safetensors files are read")
        if url:
            return await self._remote(name, reader)
        if (found := self._in_folder(name)) is not None:
            return await asyncio.to_thread(self._local, found, name)
        match = _HUB_ID.fullmatch(name)
        if match is None or not self._settings.hub:
            ways = "a URL" + (", owner/name of the hub" if self._settings.hub else "")
            folder = " or a file of the server's LoRA folder" if self._settings.folder else ""
            raise _refused(name, f"there is no such LoRA; name {ways}{folder}", "file_download_error")
        file = match["file"] or await self._only_file(match["repo"], name, reader)
        hub = self._settings.hub.rstrip("/")
        return await self._remote(f"{hub}/{match['repo']}/resolve/main/{quote(file)}", reader)

    # ------------------------------------------------------------ files of this machine

    def _in_folder(self, name: str) -> Path | None:
        """A file below the allowed folder, however many dots and links its path has."""
        if self._settings.folder is None:
            return None
        folder = self._settings.folder.resolve()
        with _no_path():
            path = (folder / name).resolve()
            return path if path.is_relative_to(folder) and path.is_file() else None
        return None

    def _operators(self, name: str) -> _Here | None:
        """Any file there is."""
        with _no_path():
            path = Path(name).expanduser()
            return self._local(path, name) if path.is_file() else None
        return None

    def _local(self, path: Path, name: str) -> _Here:
        try:
            stat = path.stat()
            if stat.st_size > self._settings.max_mb * MIB:
                raise self._too_large(name)
            key = (str(path), stat.st_mtime_ns, stat.st_size)
            digest = self._digests.get(key)
            if digest is None:
                _judge(path, name)
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                _remember(self._digests, key, digest)
            return _Here(path, digest)
        except OSError as error:
            raise _refused(name, f"it cannot be read ({error.strerror})", "file_download_error") from None

    # ------------------------------------------------------------ files of other machines

    async def _remote(self, url: str, reader: str) -> _Here:
        """The LoRA at `url`. Requests share a download that runs; none waits for the turn of another key's."""
        here = self._fresh(url)
        if here is None and url not in self._coming:
            # There as long as somebody holds it or waits for it.
            turn = self._turns.setdefault(reader, asyncio.Semaphore(AT_A_TIME))
            await turn.acquire()
            here = self._fresh(url)  # another one's, meanwhile
            if here is None and url not in self._coming:
                task = self._coming[url] = asyncio.create_task(self._fetch(url, reader))
                task.add_done_callback(lambda done: self._arrived(url, done, turn))
            else:
                turn.release()
        return here or await asyncio.shield(self._coming[url])

    def _fresh(self, url: str) -> _Here | None:
        """A LoRA that was fetched from `url` lately and is still there."""
        fetched, here = self._known.get(url, (0.0, None))
        if here is not None and time.monotonic() - fetched < self._settings.fresh_hours * 3600:
            with contextlib.suppress(FileNotFoundError):
                os.utime(here.path)  # used now: it goes last
                return here
        return None

    def _arrived(self, url: str, done: asyncio.Task[_Here], turn: asyncio.Semaphore) -> None:
        turn.release()
        del self._coming[url]
        if not done.cancelled() and done.exception() is None:
            _remember(self._known, url, (time.monotonic(), done.result()))

    async def _fetch(self, url: str, reader: str) -> _Here:
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        draft = self._folder / f"{secrets.token_hex(16)}.part"
        digest = hashlib.sha256()
        try:
            with draft.open("xb") as file:

                def take(piece: bytes) -> None:
                    digest.update(piece)
                    file.write(piece)

                await self._get(url, take, max_bytes=self._settings.max_mb * MIB, reader=reader)
            await asyncio.to_thread(_judge, draft, url)
            path = self._folder / f"{digest.hexdigest()}.safetensors"
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        await asyncio.to_thread(self._shrink)
        return _Here(path, digest.hexdigest())

    async def _get(self, url: str, into: Callable[[bytes], object], *, max_bytes: int, reader: str) -> None:
        policy = replace(self._policy, resolve=self._host_names.of(reader))
        try:
            await fetch(url, policy=policy, max_bytes=max_bytes, seconds=self._settings.seconds, into=into)
        except FetchTooLarge:
            raise self._too_large(url) from None
        except FetchError as error:
            raise _refused(url, f"it cannot be downloaded. {error.message}", "file_download_error") from None

    async def _only_file(self, repo: str, name: str, reader: str) -> str:
        """The LoRA of a repository of the hub that names none; asked as often as its file."""
        asked, file = self._names.get(repo, (0.0, ""))
        if not file or time.monotonic() - asked >= self._settings.fresh_hours * 3600:
            file = await self._listed(repo, name, reader)
            _remember(self._names, repo, (time.monotonic(), file))
        return file

    async def _listed(self, repo: str, name: str, reader: str) -> str:
        data = bytearray()
        url = f"{self._settings.hub.rstrip('/')}/api/models/{repo}"
        await self._get(url, data.extend, max_bytes=HUB_LISTING, reader=reader)
        try:
            listing: dict[str, Any] = json.loads(data)
            files = [str(each["rfilename"]) for each in listing["siblings"]]
        except (ValueError, KeyError, TypeError):
            raise _refused(name, "the hub's answer about it is not understood", "file_download_error") from None
        found = [file for file in files if file.endswith((".safetensors", ".sft"))]
        if USUAL_NAME in found:
            return USUAL_NAME
        if len(found) == 1:
            return found[0]
        if not found:
            raise _refused(name, "the repository has no .safetensors file")
        raise _refused(name, f"the repository has several files; name one, as in {repo}/{found[0]}")

    # ------------------------------------------------------------ what is kept

    def _hold(self, path: Path, mine: set[Path]) -> None:
        """Keep a file that was fetched until its request has all of them, which are `mine`. Raises ModelError when they
        are more than may be kept at all.
        """
        if path.parent != self._folder or path in mine:
            return
        mine.add(path)
        self._held[path] += 1
        limit = self._settings.cache_mb
        if sum(size for _, size in map(_age_and_size, mine)) > limit * MIB:
            message = f"The LoRAs of one request may have {limit} MiB together (setting lora.cache_mb)."
            raise ModelError.at(FIELD, message, "file_too_large", max_size=limit * MIB)

    def _let_go(self, mine: set[Path]) -> None:
        for path in mine:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)  # the runner is about to read it
            self._held[path] -= 1
            if not self._held[path]:
                del self._held[path]

    def _shrink(self) -> None:
        """Delete the least recently used until the rest fits, none that somebody needs now; and old drafts."""
        for draft in self._folder.glob("*.part"):
            with contextlib.suppress(OSError):  # another one's, which has just come
                if time.time() - draft.stat().st_mtime > FORGOTTEN:
                    draft.unlink()
        files = sorted(((*_age_and_size(path), path) for path in self._folder.glob("*.safetensors")), reverse=True)
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self._settings.cache_mb * MIB:
                return
            # Asked anew: it may have been used since, in the loop's thread. One that is taken up in this very moment is
            # missed by the runner, and its request tried again.
            if path not in self._held and _age_and_size(path)[0] > SHORTLY:
                total -= size
                path.unlink(missing_ok=True)

    def _too_large(self, name: str) -> ModelError:
        limit = self._settings.max_mb
        message = f"The LoRA {bare_url(name)[:200]} is larger than {limit} MiB (setting lora.max_mb)."
        return ModelError.at(FIELD, message, "file_too_large", max_size=limit * MIB)


def _remember(table: dict[K, V], key: K, value: V) -> None:
    """Keeps a value as the newest; the oldest goes when there are more than `REMEMBERED`."""
    table.pop(key, None)
    table[key] = value
    while len(table) > REMEMBERED:
        del table[next(iter(table))]


def _age_and_size(path: Path) -> tuple[float, int]:
    """Seconds since it was used, and bytes. A file that somebody has just deleted is as new and as small as can be."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0.0, 0
    return time.time() - stat.st_mtime, stat.st_size


@contextlib.contextmanager
def _no_path() -> Generator[None]:
    """Take what no file can be called (NUL, too long a name, half a surrogate pair, an unknown ~user) for no file."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        yield


def _path_of(name: str) -> str:
    """Return the path of a URL or of a name. Raises ModelError."""
    try:
        return urlsplit(name).path
    except ValueError:
        raise _refused(name, "it is not a valid URL", "file_download_error") from None


def _judge(path: Path, name: str) -> None:
    """Raise ModelError unless the file has the frame of safetensors; the runner judges what is in it."""
    try:
        frame.read(path, name=name, max_header=MAX_HEADER)
    except WeightsError as error:
        raise _refused(name, error.message.removeprefix(f"{name}: ")) from None


def _refused(name: str, why: str, type_: str = "value_error") -> ModelError:
    return ModelError.at(FIELD, f"The LoRA {bare_url(name)[:200]} was not used: {why.rstrip('.')}.", type_)
