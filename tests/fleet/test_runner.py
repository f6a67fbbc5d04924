"""The runner's half of the conversation, and what it prints."""

import asyncio
import logging
import socket

import pytest

from impasto.engine.job import JobResult, Picture
from impasto.fleet import messages as m
from impasto.fleet.local import MAX_LINE, _relay
from impasto.fleet.runner import Runner, _encoded

CONFIG = m.RunnerConfig(
    socket="", token="", runner_id="r", parent_pid=0, slots=1, model={}, safety={}, drain_seconds=1.0
)


async def test_what_was_sent_before_the_end_is_out_of_the_process() -> None:
    """It ends with `os._exit` once nothing is left to say, while the gateway may be slow to read."""
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=here)
    runner = Runner(CONFIG, reader, writer)
    speaking = asyncio.create_task(runner._speak())
    line = m.Log(request_id="r", lease="l", timestamp="", message="x" * 10_000, level="INFO")
    while True:
        runner._say(line)
        try:
            async with asyncio.timeout(0.5):
                await runner._outgoing.join()
        except TimeoutError:
            break  # the socket takes no more, and the runner knows
        assert writer.transport.get_write_buffer_size() == 0
    gateway, answers = await asyncio.open_unix_connection(sock=there)
    reading = asyncio.create_task(gateway.read())
    await runner._outgoing.join()
    assert writer.transport.get_write_buffer_size() == 0
    speaking.cancel()
    writer.close()
    await reading
    answers.close()


async def test_a_line_that_never_ends_is_not_kept_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "impasto.fleet")
    printed = asyncio.StreamReader()
    relaying = asyncio.create_task(_relay(printed, "runner-1"))
    printed.feed_data(b"INFO a line\n" + b"step 1 of 30\r" * MAX_LINE)
    await asyncio.sleep(0.1)
    assert sum(len(record.getMessage()) for record in caplog.records) > 11 * MAX_LINE
    printed.feed_eof()
    await relaying
    assert caplog.records[0].getMessage() == "runner-1: a line"


def test_more_than_a_frame_holds_ends_its_request_and_not_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MAX_FRAME", 1000)
    picture = Picture(data=b"x" * 1000, media_type="image/png", width=8, height=8, nsfw=False, nsfw_score=0.0)
    result = JobResult(request_id="r", pictures=(picture,), seed=7, timings={})
    frame = _encoded(m.Done(request_id="r", lease="l", result=result))
    said = m.decode_up(frame[4:])
    assert isinstance(said, m.Failed)
    assert (said.request_id, said.lease, said.status) == ("r", "l", 500)
