"""Every sentence goes over the wire and comes back the same; what nobody understands is refused."""

import asyncio
from dataclasses import replace
from types import UnionType
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from impasto.engine.job import Job, JobResult, Notice, Picture
from impasto.engine.senses import Senses
from impasto.fleet import messages as m
from impasto.fleet.runner import _encoded

JOB = Job(
    request_id="r", model="impasto-mini", prompt="ein grüner Apfel 🍏", width=1024, height=768, steps=28,
    guidance=3.5, seed=2**64 - 1, num_images=4, format="png", safety_tolerance=6, safety_checker=False, priority=1,
)  # fmt: skip
RESULT = JobResult(
    request_id="r",
    pictures=(Picture(data=bytes(range(256)), media_type="image/png", width=8, height=8, nsfw=True, nsfw_score=0.5),),
    seed=2**64 - 1,
    timings={"inference": 1.25},
    notices=(Notice(code="prompt_cut", message="too long", field="prompt"),),
)
WORK = {"request_id": "r", "lease": "l"}
EXAMPLES: dict[type[Any], Any] = {
    m.Hello: m.Hello(runner_id="runner-1", pid=7, token="secret"),
    m.Ready: m.Ready(
        models=["a", "b"], slots=2, device="cpu", dtype="float32", load_seconds=1.5,
        senses={"a": Senses(model="a", able=("init", "fill"), needs=("fill",))},
    ),
    m.Unready: m.Unready(reason="no weights"),
    m.Beat: m.Beat(leases={"r": "l"}),
    m.Progress: m.Progress(**WORK, step=3, steps=28, image=1, images=4),
    m.Preview: m.Preview(**WORK, step=3, steps=28, image=1, jpeg=b"\xff\xd8", width=32, height=24),
    m.Log: m.Log(**WORK, timestamp="2026-01-02T03:04:05.000006", message="step 3/28", level="WARN"),
    m.Done: m.Done(**WORK, result=RESULT),
    m.Failed: m.Failed(
        **WORK, status=500, error_type="internal_server_error", body={"detail": [{"loc": ["body"]}]},
        headers={"X-Fal-Retryable": "false"}, retryable=True,
    ),
    m.Released: m.Released(**WORK),
    m.Welcome: m.Welcome(beat_seconds=3.0),
    m.Assign: m.Assign(lease="l", attempt=2, job=JOB),
    m.Cancel: m.Cancel(**WORK),
    m.Lost: m.Lost(**WORK),
    m.Drain: m.Drain(seconds=30.0),
}  # fmt: skip


def members(union: UnionType) -> set[type[Any]]:
    return set(get_args(union))


def test_every_message_has_an_example_and_a_sentence() -> None:
    assert set(EXAMPLES) == members(m.Up) | members(m.Down)
    for kind in EXAMPLES:
        assert kind.__module__ == m.__name__


@pytest.mark.parametrize("message", EXAMPLES.values(), ids=lambda message: type(message).__name__)
def test_every_message_round_trips(message: Any) -> None:
    frame = m.encode(message)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    decode = m.decode_up if type(message) in members(m.Up) else m.decode_down
    again = decode(frame[4:])
    assert type(again) is type(message)
    assert again == message


@pytest.mark.parametrize("message", EXAMPLES.values(), ids=lambda message: type(message).__name__)
def test_nobody_can_speak_in_the_other_direction(message: Any) -> None:
    decode = m.decode_down if type(message) in members(m.Up) else m.decode_up
    with pytest.raises(msgspec.MsgspecError):
        decode(m.encode(message)[4:])


def test_the_config_round_trips_as_json() -> None:
    config = m.RunnerConfig(
        socket="/s", token="t", runner_id="r", parent_pid=1, slots=2, model={"name": "x"}, safety={}, drain_seconds=1.0
    )
    assert msgspec.json.decode(msgspec.json.encode(config), type=m.RunnerConfig) == config


def read(*chunks: bytes) -> bytes | None:
    async def run() -> bytes | None:
        reader = asyncio.StreamReader()
        for chunk in chunks:
            reader.feed_data(chunk)
        reader.feed_eof()
        return await m.read_frame(reader)

    return asyncio.run(run())


def test_what_cannot_be_sent_ends_its_request_and_not_the_runner() -> None:
    odd = replace(RESULT, timings={"inference": np.float32(1.0)})
    (message,) = frames(_encoded(m.Done(**WORK, result=odd)))
    assert isinstance(message, m.Failed)
    assert (message.request_id, message.lease, message.status) == ("r", "l", 500)
    assert _encoded(m.Log(**WORK, timestamp="t", message="half a character: \ud800")) == b""
    assert frames(_encoded(m.Beat(leases={"r": "l"}))) == [m.Beat(leases={"r": "l"})]


@pytest.mark.parametrize("change", [{"format": "webp"}, {"width": 64.5}, {"arguments": {"border": 10**30}}])
def test_a_job_that_no_runner_understands_is_told_before(change: dict[str, Any]) -> None:
    m.check(JOB)
    with pytest.raises((msgspec.MsgspecError, OverflowError)):
        m.check(replace(JOB, **change))


def frames(data: bytes) -> list[Any]:
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    return [m.decode_up(data[4:])]


def test_frames_are_read_whole_and_a_torn_one_is_the_end() -> None:
    frame = m.encode(EXAMPLES[m.Done])
    assert read(frame[:3], frame[3:50], frame[50:]) == frame[4:]
    assert read(frame[:-1]) is None
    assert read(frame[:2]) is None
    assert read() is None


def test_an_absurd_length_is_not_waited_for() -> None:
    assert read((m.MAX_FRAME + 1).to_bytes(4, "big"), b"x") is None
