"""What the engine promises of the work beside its steps: it goes on while steps are made, and stays each job's own."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from impasto.engine.custom import Custom
from impasto.engine.drawing import Finisher
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.fake import FakePipeline
from impasto.engine.job import Job, JobResult
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.engine.safety import Safety
from impasto.settings import SafetySettings

from .conftest import PATIENCE, Recorder, encode_image, make_job

MakeEngine = Callable[..., Engine]


class Gated(FakePipeline):
    """Waits in `encode` or `decode`, for prompts that say so, until its gate opens; tells when it has come there."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.reached, self.gate = where, threading.Event(), threading.Event()
        self.decoded: list[str] = []

    def _pass(self, where: str, job: Job) -> None:
        if where == self.where and "wait" in job.prompt:
            self.reached.set()
            assert self.gate.wait(PATIENCE)

    def encode(self, job: Job) -> Conditioning:
        self._pass("encode", job)
        return super().encode(job)

    def decode(self, job: Job, latents: Any) -> Pixels:
        self._pass("decode", job)
        self.decoded.append(job.request_id)
        return super().decode(job, latents)


def open_at(pipeline: Gated, lease: str, number: int) -> Callable[[str, int, int], None]:
    """Opens the gate when the job has made that step: never, if it had to wait for the gate."""

    def on_step(stepping: str, image: int, step: int) -> None:
        if (stepping, step) == (lease, number):
            pipeline.gate.set()

    return on_step


def test_the_next_prompt_is_read_while_steps_are_made(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("encode")
    engine = make_engine(pipeline)
    recorder.on_step = open_at(pipeline, "drawing", 30)
    engine.submit(make_job("r1", steps=30), "drawing")
    engine.submit(make_job("r2", prompt="wait"), "next")
    engine.start()
    recorder.wait("drawing", "next")
    assert all(isinstance(outcome, JobResult) for outcome in recorder.outcomes.values())


def test_a_short_job_is_not_held_up_by_a_long_one(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()

    def submit_a_short_one(lease: str, image: int, step: int) -> None:
        if (lease, step) == ("long", 20):
            engine.submit(make_job("short"), "short")

    recorder.on_step = submit_a_short_one
    engine.submit(make_job("long", steps=1_000_000), "long")
    engine.start()
    recorder.wait("short")
    assert isinstance(recorder.outcomes["short"], JobResult)
    engine.cancel("long")
    recorder.wait("long")
    assert isinstance(recorder.outcomes["long"], Failure), "it was not done"


def test_the_last_picture_is_decoded_while_steps_are_made(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    recorder.on_step = open_at(pipeline, "next", 20)
    engine.submit(make_job("r1", prompt="wait"), "last")
    engine.submit(make_job("r2", steps=20), "next")
    engine.start()
    recorder.wait("last", "next")
    assert list(recorder.outcomes) == ["last", "next"], "who was drawn first is done first"


def test_pictures_of_one_job_overlap_with_each_other(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    seen: list[int] = []

    def on_step(lease: str, image: int, step: int) -> None:
        seen.append(image)
        if image == 3:
            pipeline.gate.set()

    recorder.on_step = on_step
    engine.submit(make_job("r1", prompt="wait", num_images=3), "lease")
    engine.start()
    recorder.wait("lease")
    assert isinstance(recorder.outcomes["lease"], JobResult)
    assert seen == sorted(seen)


def test_a_cancel_ends_a_job_whose_picture_is_being_decoded(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    engine.submit(make_job("r1", prompt="wait"), "cancelled")
    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    engine.cancel("cancelled")
    recorder.wait("cancelled")
    failure = recorder.outcomes["cancelled"]
    assert isinstance(failure, Failure)
    assert failure.status == 499
    pipeline.gate.set()
    engine.submit(make_job("r2"), "other")
    recorder.wait("other")
    assert isinstance(recorder.outcomes["other"], JobResult)


def test_a_cancelled_jobs_waiting_picture_is_not_decoded(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    engine.submit(make_job("r1", prompt="wait"), "first")
    engine.submit(make_job("r2"), "second")

    def cancel_second(lease: str, image: int, step: int) -> None:
        if (lease, step) == ("third", 1):  # the second has made its steps, and waits behind the first
            engine.cancel("second")

    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    recorder.on_step = cancel_second
    engine.submit(make_job("r3"), "third")
    recorder.wait("second")
    pipeline.gate.set()
    recorder.wait("first", "third")
    assert pipeline.decoded == ["r1", "r3"]


def test_a_cancel_ends_a_job_whose_prompt_is_being_read(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("encode")
    engine = make_engine(pipeline)
    engine.submit(make_job("r1", prompt="wait"), "cancelled")
    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    engine.cancel("cancelled")
    recorder.wait("cancelled")
    pipeline.gate.set()
    engine.submit(make_job("r2"), "other")
    recorder.wait("other")
    assert not [step for step in recorder.steps if step[0] == "cancelled"]


@pytest.mark.parametrize("where", ["encode", "decode"])
def test_what_hangs_beside_the_steps_can_be_seen_from_outside(
    make_engine: MakeEngine, recorder: Recorder, where: str
) -> None:
    pipeline = Gated(where)
    engine = make_engine(pipeline)
    engine.submit(make_job(prompt="wait"), "lease")
    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    assert engine.stalled_for > 0
    pipeline.gate.set()
    recorder.wait("lease")
    engine.drain(0)
    assert engine.join(PATIENCE)
    assert engine.stalled_for == 0


def test_a_drain_waits_for_the_picture_that_is_being_decoded(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    engine.submit(make_job(prompt="wait"), "lease")
    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    engine.drain(PATIENCE)
    pipeline.gate.set()
    assert engine.join(PATIENCE)
    assert isinstance(recorder.outcomes["lease"], JobResult)


def test_a_drain_out_of_time_releases_what_is_still_beside_the_steps(
    make_engine: MakeEngine, recorder: Recorder
) -> None:
    pipeline = Gated("decode")
    engine = make_engine(pipeline)
    engine.submit(make_job(prompt="wait"), "lease")
    engine.start()
    assert pipeline.reached.wait(PATIENCE)
    engine.drain(0)
    recorder.wait("lease")
    pipeline.gate.set()
    assert engine.join(PATIENCE)
    assert recorder.outcomes == {"lease": "released"}


def test_another_mans_pipeline_is_used_by_one_thread(recorder: Recorder) -> None:
    threads: set[int] = set()

    class Theirs(FakePipeline):
        def encode(self, job: Job) -> Conditioning:
            threads.add(threading.get_ident())
            return super().encode(job)

        def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
            threads.add(threading.get_ident())
            return super().denoise(job, conditioning, index=index)

        def decode(self, job: Job, latents: Any) -> Pixels:
            threads.add(threading.get_ident())
            return super().decode(job, latents)

    finisher = Finisher(Safety(SafetySettings(enabled=False), None), encode_image)
    custom = {"mine/own": Custom(Theirs())}
    engine = Engine(pipeline=FakePipeline(), finisher=finisher, sink=recorder, custom=custom)
    for number in range(3):
        engine.submit(make_job(f"r{number}", endpoint="mine/own"), f"lease {number}")
        engine.submit(make_job(f"s{number}"), f"other {number}")
    engine.start()
    engine.drain(PATIENCE)
    assert engine.join(PATIENCE)
    assert len(recorder.outcomes) == 6
    assert len(threads) == 1
