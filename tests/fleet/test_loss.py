"""Runners that die, freeze, hang, drain or cannot load: nothing is lost, nothing is drawn into a result twice."""

import asyncio
import contextlib
import io
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from impasto.files.images import data_uri
from impasto.fleet.inputs import Inputs
from impasto.fleet.local import restart_pause
from impasto.settings import ModelSettings
from impasto.store.records import Outcome, Status

from .conftest import PATIENCE, House, make_settings, open_house


async def undisturbed_sums(tmp_path: Path, **input_: object) -> list[str]:
    """The pictures of the same request when nothing happens to it."""
    async with open_house(make_settings(tmp_path / "undisturbed")) as house:
        await house.until_ready()
        return house.sums((await house.ended(await house.submit(**input_)))[1])


def only_pid(house: House) -> int:
    (pid,) = house.fleet.pids
    return pid


async def test_a_killed_runner_loses_nothing_and_the_second_attempt_draws_the_same_bytes(tmp_path: Path) -> None:
    expected = await undisturbed_sums(tmp_path, num_images=2, num_inference_steps=20)
    # A lease of an hour: it is the torn connection that brings the work back, at once.
    async with open_house(make_settings(tmp_path, lease_seconds=3600.0), step_seconds=0.05) as house:
        await house.until_ready()
        killed = await house.submit(num_images=2, num_inference_steps=20)
        neighbour = await house.submit("neighbour", num_inference_steps=20)
        await house.until_drawing(killed, step=5)
        first = only_pid(house)
        os.kill(first, signal.SIGKILL)
        request, result = await house.ended(killed)
        other, _ = await house.ended(neighbour)
        assert request.outcome is other.outcome is Outcome.OK
        assert house.sums(result) == expected
        assert request.crash_count + other.crash_count <= 1, "only the one whose step it was is blamed"
        assert (request.attempt, other.attempt) == (1 + request.crash_count, 1 + other.crash_count)
        assert only_pid(house) != first, "another process was started in its place"
        assert any("Attempt 1 ended: the runner went away" in message for message in house.messages(killed))


async def test_random_kills_and_freezes_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """Thirty requests, two runners, and somebody who kills or freezes one of them again and again."""
    dice = random.Random(20260102)
    settings = make_settings(tmp_path, lease_seconds=1.5, beat_seconds=0.2, max_attempts=100, max_crashes=100)
    count = 30
    async with open_house(settings, runners=2, step_seconds=0.02) as house:
        ids = [await house.submit(f"picture {number}", num_inference_steps=10) for number in range(count)]
        hits = 0
        while any(house.request(request_id).status is not Status.COMPLETED for request_id in ids):
            await asyncio.sleep(dice.uniform(0.1, 0.6))
            runners = house.dispatcher.runners
            if runners and hits < 12:
                victim, hits = dice.choice(runners).pid, hits + 1
                with contextlib.suppress(ProcessLookupError):
                    if dice.random() < 0.7:
                        os.kill(victim, signal.SIGKILL)
                    else:
                        os.kill(victim, signal.SIGSTOP)
                        await asyncio.sleep(2.0)  # longer than the lease
                        os.kill(victim, signal.SIGCONT)
        results = [await house.ended(request_id) for request_id in ids]
        assert {request.outcome for request, _ in results} == {Outcome.OK}
        assert sum(request.attempt for request, _ in results) > count, "the trouble hit work"
        await house.until(lambda: all(runner.busy == 0 for runner in house.dispatcher.runners))
        found = [house.sums(result) for _, result in results]
        assert house.blobs_on_disk() == count, "nobody's pictures are left behind"
    async with open_house(make_settings(tmp_path / "undisturbed")) as house:
        for number, sums in enumerate(found):
            request_id = await house.submit(f"picture {number}", num_inference_steps=10)
            assert house.sums((await house.ended(request_id))[1]) == sums


async def test_a_request_that_kills_every_runner_ends_in_503(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path, slots=1, max_crashes=3), step_seconds=0.1) as house:
        poison = await house.submit(num_inference_steps=50)
        for attempt in (1, 2, 3):
            await house.until(lambda attempt=attempt: house.request(poison).attempt == attempt)
            await house.until_drawing(poison)
            os.kill(only_pid(house), signal.SIGKILL)
        request, result = await house.ended(poison)
        assert (request.outcome, request.http_status, request.error_type) == (
            Outcome.ERROR, 503, "runner_disconnected",
        )  # fmt: skip
        assert result.payload["error_type"] == "runner_disconnected"
        innocent = await house.submit(num_inference_steps=1)
        assert (await house.ended(innocent))[0].outcome is Outcome.OK


async def test_work_whose_files_are_read_has_nothing_to_do_with_a_runners_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_all, reading, killed = Inputs.read_all, asyncio.Event(), asyncio.Event()

    async def slow(self: Inputs, *wanted: Any, **who: Any) -> Any:
        reading.set()
        await killed.wait()
        return await read_all(self, *wanted, **who)

    monkeypatch.setattr(Inputs, "read_all", slow)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, "PNG")
    given = {"image_url": data_uri(buffer.getvalue(), "image/png"), "image_size": None, "no_retry": True}
    async with open_house(make_settings(tmp_path)) as house:
        await house.until_ready()
        request_id = await house.submit(endpoint="fal-ai/flux/dev/image-to-image", **given)
        await asyncio.wait_for(reading.wait(), PATIENCE)
        os.kill(only_pid(house), signal.SIGKILL)
        killed.set()
        request, _ = await house.ended(request_id)
        assert (request.outcome, request.attempt, request.crash_count) == (Outcome.OK, 1, 0)


async def test_a_caller_that_forbids_retries_gets_none(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path), step_seconds=0.1) as house:
        await house.until_ready()
        request_id = await house.submit(num_inference_steps=50, no_retry=True)
        await house.until_drawing(request_id)
        os.kill(only_pid(house), signal.SIGKILL)
        request, _ = await house.ended(request_id)
        assert (request.http_status, request.attempt) == (503, 1)


async def test_a_frozen_runner_is_fenced_off_and_its_late_pictures_are_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two runners. The one that draws is stopped for longer than its lease; the other one takes over; the first one
    wakes up, finishes, and finds that nobody wants its pictures.
    """
    caplog.set_level(logging.INFO, "impasto")
    input_ = {"num_images": 2, "num_inference_steps": 20}
    expected = await undisturbed_sums(tmp_path, **input_)
    settings = make_settings(tmp_path, slots=1, lease_seconds=2.0, beat_seconds=0.25)
    async with open_house(settings, runners=2, step_seconds=0.05) as house:
        await house.until(lambda: len(house.dispatcher.runners) == 2)
        request_id = await house.submit(**input_)
        await house.until_drawing(request_id, step=10)
        zombie = next(runner for runner in house.dispatcher.runners if runner.busy)
        first_lease = house.request(request_id).lease
        os.kill(zombie.pid, signal.SIGSTOP)
        try:
            request, result = await house.ended(request_id)
        finally:
            os.kill(zombie.pid, signal.SIGCONT)
        assert (request.outcome, request.attempt) == (Outcome.OK, 2)
        assert request.runner_id != zombie.runner_id
        assert request.lease != first_lease
        assert house.sums(result) == expected
        await house.until(lambda: all(runner.busy == 0 for runner in house.dispatcher.runners))
        assert {runner.pid for runner in house.dispatcher.runners} >= {zombie.pid}, "it was only asleep, it may go on"
        again = [await house.submit(str(number), num_inference_steps=2) for number in range(4)]
        for other in again:
            await house.ended(other)
        assert house.store.result(request_id) == result, "the first result stands"
        assert house.blobs_on_disk() == 2 + 4


async def test_pictures_of_a_lost_lease_are_deleted(tmp_path: Path) -> None:
    """The lease is taken away behind the dispatcher's back, so that Done arrives while it still believes in it."""
    settings = make_settings(tmp_path, beat_seconds=3600.0, lease_seconds=3600.0, slots=1)
    async with open_house(settings, step_seconds=0.02) as house:
        await house.until_ready()
        request_id = await house.submit(num_images=2, num_inference_steps=20)
        await house.until_drawing(request_id, step=5)
        lease = house.request(request_id).lease
        assert lease is not None
        await house.store.requeue(request_id, lease, crashed=False, drain=True, reason="the test took the lease away")
        request, result = await house.ended(request_id)
        assert request.lease != lease
        assert len(house.sums(result)) == 2
        assert house.blobs_on_disk() == 2, "two pictures of two attempts, and only those of the second one are kept"
        assert house.messages(request_id).count("Drawing 2 images of 128x96 in 20 steps, seed 7") == 2


async def test_a_stop_finishes_what_runs(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path), step_seconds=0.05) as house:
        await house.until_ready()
        request_id = await house.submit(num_inference_steps=20)
        await house.until_drawing(request_id)
        await house.dispatcher.drain(60.0)
        assert house.request(request_id).outcome is Outcome.OK
        assert not house.dispatcher.ready
        assert house.dispatcher.reason == "The server is stopping."


async def test_a_stop_releases_what_it_cannot_finish_without_costing_an_attempt(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path), step_seconds=0.1) as house:
        await house.until_ready()
        running = await house.submit(num_inference_steps=50, num_images=4)
        await house.until_drawing(running, step=2)
        await house.dispatcher.drain(0.0)
        waiting = await house.submit()
        request = house.request(running)
        assert (request.status, request.attempt, request.crash_count) == (Status.IN_QUEUE, 0, 0)
    async with open_house(make_settings(tmp_path)) as house:
        for request_id in (running, waiting):
            request, _ = await house.ended(request_id)
            assert (request.outcome, request.attempt) == (Outcome.OK, 1)


async def test_sigterm_to_a_runner_drains_it_too(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path), step_seconds=0.05) as house:
        await house.until_ready()
        request_id = await house.submit(num_inference_steps=20)
        await house.until_drawing(request_id)
        os.kill(only_pid(house), signal.SIGTERM)
        request, _ = await house.ended(request_id)
        assert (request.outcome, request.attempt) == (Outcome.OK, 1)
        after = await house.submit()
        assert (await house.ended(after))[0].outcome is Outcome.OK, "the fleet starts another one"


async def test_a_runner_that_cannot_load_says_why(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-checkpoint"
    settings = make_settings(tmp_path).model_copy(update={"model": ModelSettings(name=str(missing), device="cpu")})
    async with open_house(settings) as house:
        assert not house.dispatcher.ready
        await house.until(lambda: "no-such-checkpoint" in house.dispatcher.reason)
        waiting = await house.submit()
        assert house.request(waiting).status is Status.IN_QUEUE


async def test_a_step_that_hangs_ends_the_runner_and_the_request_goes_back(tmp_path: Path) -> None:
    """A step sleeps for a second and may take a tenth of one: every attempt hangs, and the third one is the last."""
    settings = make_settings(tmp_path, slots=1, max_crashes=2, beat_seconds=0.1)
    async with open_house(settings, step_seconds=1.5, stall_seconds=0.2) as house:
        request_id = await house.submit(num_inference_steps=3)
        request, _ = await house.ended(request_id)
        assert (request.http_status, request.crash_count, request.attempt) == (503, 2, 2)


async def test_a_runner_that_stays_frozen_is_killed_and_replaced(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, lease_seconds=1.0, beat_seconds=0.2)
    async with open_house(settings, step_seconds=0.05) as house:
        await house.until_ready()
        frozen = only_pid(house)
        os.kill(frozen, signal.SIGSTOP)
        await house.until(lambda: not house.dispatcher.ready)
        assert house.dispatcher.reason == "The runner does not answer."
        request_id = await house.submit()
        assert (await house.ended(request_id))[0].outcome is Outcome.OK
        assert only_pid(house) != frozen


async def another_gateway(code: str) -> asyncio.subprocess.Process:
    """A process of its own that runs `main`, a coroutine of `code`, with the house's tools."""
    bootstrap = (
        "import asyncio, importlib.util, sys\n"
        "from pathlib import Path\n"
        f"path = {str(Path(__file__).with_name('conftest.py'))!r}\n"
        "spec = importlib.util.spec_from_file_location('tests_fleet_house', path)\n"
        "module = importlib.util.module_from_spec(spec); sys.modules[spec.name] = module\n"
        "spec.loader.exec_module(module)\n"
        "from tests_fleet_house import make_settings, open_house\n"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"{bootstrap}{code}\nasyncio.run(main())", stdout=asyncio.subprocess.PIPE
    )


async def test_a_gateway_that_stood_still_ends_no_lease_and_kills_no_runner(tmp_path: Path) -> None:
    """SIGSTOP: its timers are due before it has read what the runner said meanwhile."""
    gateway = await another_gateway(f"""
async def main():
    settings = make_settings(Path({str(tmp_path)!r}), lease_seconds=2.0, beat_seconds=0.2)
    async with open_house(settings, step_seconds=0.1) as house:
        await house.until_ready()
        request_id = await house.submit(num_inference_steps=50, num_images=3, no_retry=True)
        await house.until_drawing(request_id)
        before = house.fleet.pids
        print("drawing", flush=True)
        request, _ = await house.ended(request_id)
        print(request.outcome, request.attempt, house.fleet.pids == before, flush=True)
""")
    assert gateway.stdout is not None
    async with asyncio.timeout(2 * PATIENCE):
        assert await gateway.stdout.readline() == b"drawing\n"
        os.kill(gateway.pid, signal.SIGSTOP)
        await asyncio.sleep(9.0)  # over four leases
        os.kill(gateway.pid, signal.SIGCONT)
        assert await gateway.stdout.readline() == b"OK 1 True\n"
        await gateway.wait()


async def test_children_die_with_the_gateway(tmp_path: Path) -> None:
    """kill -9 of the parent: no child is left behind, holding the GPU."""
    parent = await another_gateway(f"""
async def main():
    async with open_house(make_settings(Path({str(tmp_path)!r})), step_seconds=1.0) as house:
        await house.until_ready()
        print(house.fleet.pids[0], flush=True)
        await asyncio.sleep(3600)
""")
    assert parent.stdout is not None
    child = int(await parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(30):
        while _runs(child):  # noqa: ASYNC110 – it is nobody's child any more
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        return state != "Z"
    return False


def test_the_pauses_between_short_lives_grow_and_stop_growing() -> None:
    assert [restart_pause(n) for n in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 2.0]
    assert restart_pause(50) == 30.0
