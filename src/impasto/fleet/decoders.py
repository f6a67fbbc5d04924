"""The few decoding processes of a gateway: started when first needed, used again, ended at the first doubt.

In: image files of callers. Out: plain PNGs, or what is wrong with a file. A process that takes too long is killed; one
that ran out of memory, died or has read its share is replaced. The gateway itself never decodes a picture.
"""

import asyncio
import contextlib
import json
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from impasto.errors import ImpastoError

BLACK, WHITE = 0, 255
AT_A_TIME = 2
EACH = 1  # of them for one key: images that take long to decode hold up the images of their own key only
MEMORY = 1408 * 1024 * 1024  # bytes of address space; 64 MP take 1.1 GiB at the worst, as lossless WebP
SECONDS = 10.0  # of processor time for one picture
PATIENCE = 3  # times as much by the clock: other processes want the processor, too
PICTURES = 200  # that a process reads before it is replaced
START_SECONDS = 60.0
DAMAGED = "The image could not be read: it is damaged, or made to be hard to read."


class Undecodable(ImpastoError):
    """The picture could not be read."""

    def __init__(self, type_: str, message: str, ctx: dict[str, Any]) -> None:
        super().__init__(message)
        self.type = type_
        self.ctx = ctx


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    png: bytes
    width: int
    height: int
    before: tuple[int, int]  # upright, as the caller sent it


class _Child:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pictures = 0
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    @classmethod
    async def start(cls, *, memory: int, seconds: float) -> "_Child":
        # -P: a random.py where the server was started is not the standard library's.
        arguments = ["-P", "-m", "impasto.fleet.decoder", str(os.getpid()), str(memory), str(seconds)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        )
        child = cls(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                await child._out.readexactly(1)
        except BaseException:
            await child.end()
            raise
        return child

    async def ask(self, data: bytes, how: bytes) -> tuple[dict[str, Any], bytes]:
        self.pictures += 1
        self._in.write(how)
        self._in.write(len(data).to_bytes(8, "big"))
        self._in.write(data)
        await self._in.drain()
        facts = json.loads(await self._out.readexactly(int.from_bytes(await self._out.readexactly(4), "big")))
        return facts, await self._out.readexactly(facts["size"])

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self._in.close()
        await self.process.wait()


_DIED = (asyncio.IncompleteReadError, ConnectionError)


class Decoders:
    """`decode` starts what it needs; `close` ends it."""

    def __init__(self, *, at_a_time: int = AT_A_TIME, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self._turn = asyncio.Semaphore(at_a_time)
        self._turns: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        self._idle: list[_Child] = []
        self._memory = memory
        self._seconds = seconds

    @property
    def pids(self) -> list[int]:
        """Of the processes that wait for a picture."""
        return [child.process.pid for child in self._idle]

    async def decode(
        self, source: bytes | Callable[[], bytes], *, ground: int = WHITE, convert: bool = True, who: str = ""
    ) -> Decoded:
        """Decode an image. `source`: its bytes, or what loads them, called in a thread when its turn comes, so that
        images which wait take no memory. `ground`: the grey that shows through. `convert`: colours become sRGB; False:
        numbers stay as they are. `who`: the key id.

        Raises `Undecodable` with fal's word for what is wrong, and what `source` raises.
        """
        how = bytes([ground, convert])
        # There as long as somebody holds it or waits for it.
        own = self._turns.setdefault(who, asyncio.Semaphore(EACH))
        async with own, self._turn:
            data = source if isinstance(source, bytes) else await asyncio.to_thread(source)
            child = await self._child()
            waited = child.pictures > 0
            try:
                facts, png = await self._ask(child, data, how)
            except _DIED:
                if not waited:
                    raise Undecodable("image_load_error", DAMAGED, {}) from None
                # It may have died while it waited, unseen: a fresh one says whether that was the picture's doing.
                facts, png = await self._ask_fresh(data, how)
        if "type" in facts:
            raise Undecodable(facts["type"], facts["message"], facts["ctx"])
        width, height = facts["before"]
        return Decoded(png=png, width=facts["width"], height=facts["height"], before=(width, height))

    async def _ask_fresh(self, data: bytes, how: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            return await self._ask(await _Child.start(memory=self._memory, seconds=self._seconds), data, how)
        except _DIED:
            raise Undecodable("image_load_error", DAMAGED, {}) from None

    async def _ask(self, child: _Child, data: bytes, how: bytes) -> tuple[dict[str, Any], bytes]:
        """Ends the child unless it may wait for the next picture. Raises one of `_DIED`, or `Undecodable`."""
        good = False
        try:
            async with asyncio.timeout(PATIENCE * self._seconds):
                facts, png = await child.ask(data, how)
            good = not facts.get("spent") and child.pictures < PICTURES
            return facts, png
        except TimeoutError:
            raise Undecodable("image_load_error", DAMAGED, {}) from None
        finally:
            if good:
                self._idle.append(child)
            else:
                await asyncio.shield(child.end())

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().end()

    async def _child(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is None:
                return child
            await child.end()
        return await _Child.start(memory=self._memory, seconds=self._seconds)
