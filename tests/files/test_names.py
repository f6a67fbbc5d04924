"""A look-up that hangs holds up its own name only."""

import asyncio
import threading

import pytest

from impasto.files.names import EACH, Names


@pytest.fixture
def slow():
    """Names whose look-ups of "slow…" wait for `go`; what was looked up."""
    go, asked = threading.Event(), list[str]()

    def look_up(host: str, port: int) -> list[str]:
        asked.append(host)
        if host.startswith("slow"):
            go.wait(60)
        if host == "unknown":
            raise OSError("unknown")
        return ["192.0.2.1"]

    names = Names(look_up)
    yield names, go, asked
    go.set()
    names.close()


async def test_a_hanging_name_is_looked_up_once_and_delays_no_other(slow):
    names, go, asked = slow
    waiting = [asyncio.create_task(names.resolve("slow", 80)) for _ in range(100)]
    for _ in range(50):
        assert await names.resolve("quick", 80) == ["192.0.2.1"]
    assert asked.count("slow") == 1
    go.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * 100
    assert asked.count("quick") == 50


async def test_a_hanging_look_up_neither_holds_up_the_stop_nor_is_told_after_it(slow):
    names, go, _ = slow
    waiting = asyncio.create_task(names.resolve("slow", 80))
    await asyncio.sleep(0)
    names.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(thread.daemon for thread in threading.enumerate() if "_work" in thread.name)
    go.set()


async def test_who_loses_patience_takes_it_from_nobody_else(slow):
    names, go, _ = slow
    impatient = asyncio.create_task(names.resolve("slow", 80))
    patient = asyncio.create_task(names.resolve("slow", 80))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    go.set()
    assert await patient == ["192.0.2.1"]


async def test_an_unknown_name_is_an_error_and_asked_anew(slow):
    names, _, asked = slow
    for _ in range(2):
        with pytest.raises(OSError, match="unknown"):
            await names.resolve("unknown", 80)
    assert asked.count("unknown") == 2


async def test_nobody_takes_all_threads(slow):
    names, go, asked = slow
    crowd = [asyncio.create_task(names.resolve(f"slow{n}", 80, who="crowd")) for n in range(500)]
    async with asyncio.timeout(30):
        assert await names.of("somebody")("quick", 80) == ["192.0.2.1"]
    assert sum(host.startswith("slow") for host in asked) <= EACH
    go.set()
    assert await asyncio.gather(*crowd) == [["192.0.2.1"]] * 500


async def test_a_look_up_that_nobody_waits_for_any_more_is_not_begun(slow):
    names, go, asked = slow
    resolve = names.of("somebody")
    running = [asyncio.create_task(resolve(f"slow{n}", 80)) for n in range(EACH)]
    queued = asyncio.create_task(resolve("slow, later", 80))
    await asyncio.sleep(0.1)
    queued.cancel()
    await asyncio.gather(queued, return_exceptions=True)
    again = asyncio.create_task(resolve("slow, later", 80))  # not the one that was given up
    await asyncio.sleep(0.1)
    assert "slow, later" not in asked
    go.set()
    await asyncio.gather(*running)
    assert await again == ["192.0.2.1"]
    assert asked.count("slow, later") == 1
