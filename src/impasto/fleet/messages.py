"""Every sentence that gateway and runner say to each other, and their one codec.

The runner opens the connection (a Unix socket on one machine; a WebSocket across machines, later) and speaks first.
Up (runner → gateway): Hello, Ready, Unready, Beat, Progress, Preview, Log, Done, Failed, Released.
Down: Welcome, Assign, Cancel, Lost, Drain.
A frame is 4 bytes of length (big-endian) and that many bytes of msgpack. Work is named by (request_id, lease): the
lease is the fence, a sentence with an old one is dropped. Before all that, a child reads its RunnerConfig from stdin.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from typing import Any

import msgspec

from impasto.engine.job import Job, JobResult
from impasto.engine.senses import Senses

PROTOCOL = 1
MAX_FRAME = 256 * 1024 * 1024  # bytes; four PNGs of 4 MP fit easily


class Hello(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """First sentence of a runner: who it is and what it found on its machine."""

    runner_id: str
    pid: int
    protocol: int = PROTOCOL
    token: str = ""


class Ready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The model is loaded and has drawn its warm-up step; `slots` jobs may be assigned at once."""

    models: list[str]
    slots: int
    device: str
    dtype: str
    load_seconds: float
    residency: str = ""  # for people: where the weights live, in how many bits
    senses: dict[str, Senses] = {}  # by model; one that is missing is taken to be able to do everything


class Unready(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The model cannot be loaded; the runner ends. `reason` is for people: what is missing and what to do."""

    reason: str


class Beat(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """{request_id: lease} of all work in hand; renews the leases. `counters`: `Pipeline.counters`, for the operator."""

    leases: dict[str, str]
    counters: dict[str, int] = {}


class Progress(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A sample made a step. `step` of `steps`, 1-based, over image `image` of `images`."""

    request_id: str
    lease: str
    step: int
    steps: int
    image: int
    images: int

    @property
    def share(self) -> float:
        """How far the request is, 0 to 1."""
        return min(((self.image - 1) * self.steps + self.step) / (self.images * self.steps), 1.0)


class Preview(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What picture `image` (1-based) looks like after `step` of `steps`: a small JPEG. Never stored."""

    request_id: str
    lease: str
    step: int
    steps: int
    image: int
    jpeg: bytes
    width: int
    height: int


class Log(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    request_id: str
    lease: str
    timestamp: str
    message: str
    level: str = "INFO"


class Done(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    request_id: str
    lease: str
    result: JobResult


class Failed(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The attempt ended in an error. `body` and `headers` are fal's; `retryable`: another attempt may succeed."""

    request_id: str
    lease: str
    status: int
    error_type: str
    body: dict[str, Any]
    headers: dict[str, str]
    retryable: bool


class Released(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Handed back unfinished (drain): the attempt does not count."""

    request_id: str
    lease: str


class Welcome(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The gateway's answer to Hello; `beat_seconds` is how often it wants a Beat."""

    beat_seconds: float


class Assign(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    lease: str
    attempt: int
    job: Job


class Cancel(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The caller does not want it any more: stop within one step, answer Failed(499)."""

    request_id: str
    lease: str


class Lost(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The lease is somebody else's: drop the work silently."""

    request_id: str
    lease: str


class Drain(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Finish what can be finished in `seconds`, release the rest, then leave."""

    seconds: float


Up = Hello | Ready | Unready | Beat | Progress | Preview | Log | Done | Failed | Released
Down = Welcome | Assign | Cancel | Lost | Drain


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a child process is told on stdin, as JSON: nothing secret stands in its arguments or environment."""

    socket: str  # path of the gateway's Unix socket
    token: str
    runner_id: str
    parent_pid: int  # 0: not a child; otherwise it dies with that process
    slots: int
    model: dict[str, Any]  # settings.ModelSettings
    safety: dict[str, Any]  # settings.SafetySettings
    drain_seconds: float  # after SIGTERM
    stall_seconds: float = 900.0  # a step that takes longer hangs: the runner ends, its work is drawn again
    log_level: str = "info"
    marks: str = ""  # file in which the runner marks what it works on (`fleet.marks`); "": nowhere
    endpoints: tuple[str, ...] = ()  # settings.ServerSettings.endpoints: whose code jobs may name


class Exit(IntEnum):
    """Why a runner's process ended: its exit status."""

    DRAINED = 0
    GATEWAY_GONE = 0
    UNREADY = 3  # the model cannot be loaded; it said why
    REFUSED = 4  # wrong token, or another protocol
    STALLED = 5  # a step hung, or the engine cannot go on


_encoder = msgspec.msgpack.Encoder()
_up = msgspec.msgpack.Decoder(Up)
_job = msgspec.msgpack.Decoder(Job)
_down = msgspec.msgpack.Decoder(Down)


def encode(message: Up | Down) -> bytes:
    """One frame, length included."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


def decode_up(body: bytes) -> Up:
    """A sentence of a runner; raises `msgspec.DecodeError` at anything else."""
    return _up.decode(body)


def check(job: Job) -> None:
    """Raises what `encode` or the runner's `decode_down` would raise: users' endpoints make jobs of any shape."""
    _job.decode(_encoder.encode(job))


def decode_down(body: bytes) -> Down:
    return _down.decode(body)


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's body; None at a clean or torn end of the stream."""
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > MAX_FRAME:
            return None
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
