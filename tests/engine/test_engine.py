"""What the loop promises: one outcome a job, the same bytes whatever runs beside it, nothing that stops it."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from impasto.engine.drawing import Finisher, draw
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.fake import FakePipeline
from impasto.engine.job import Job, JobResult, Notice
from impasto.engine.pipeline import Conditioning, Pixels, Step
from impasto.engine.safety import Safety
from impasto.errors import ModelError
from impasto.settings import SafetySettings

from .conftest import PATIENCE, Recorder, encode_image, make_job

MakeEngine = Callable[..., Engine]


@pytest.fixture(params=["overlapping", "in turn"])
def make_engine(make_engine: MakeEngine, request: pytest.FixtureRequest) -> MakeEngine:
    """Every promise is kept both ways."""

    def make(pipeline: FakePipeline | None = None, **options: Any) -> Engine:
        drawn_with = pipeline or FakePipeline()
        drawn_with.overlaps = request.param == "overlapping"
        return make_engine(drawn_with, **options)

    return make


def sums(result: object) -> list[str]:
    assert isinstance(result, JobResult), result
    return [hashlib.sha256(picture.data).hexdigest() for picture in result.pictures]


def alone(job: Job) -> list[str]:
    """The pictures of a job drawn by itself, without engine or scheduler."""
    return sums(draw(job, pipeline=FakePipeline(), finisher=Finisher(Safety(SafetySettings(), None), encode_image)))


class Broken(FakePipeline):
    """Fails where it is told to, for prompts that say so."""

    def __init__(self, where: str, error: BaseException) -> None:
        super().__init__()
        self.where, self.error, self.freed = where, error, 0

    def _maybe(self, where: str, job: Job) -> None:
        if where == self.where and "break" in job.prompt:
            raise self.error

    def encode(self, job: Job) -> Conditioning:
        self._maybe("encode", job)
        return super().encode(job)

    def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
        for step in super().denoise(job, conditioning, index=index):
            yield step
            self._maybe("denoise", job)

    def decode(self, job: Job, latents: Any) -> Pixels:
        self._maybe("decode", job)
        return super().decode(job, latents)

    def free_memory(self) -> None:
        self.freed += 1


def test_a_job_becomes_its_pictures_with_logs_progress_and_timings(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine(FakePipeline(step_seconds=0.001))
    job = make_job(num_images=2, steps=28, width=96, height=64)
    engine.submit(job, "lease")
    engine.start()
    recorder.wait("lease")
    result = recorder.outcomes["lease"]
    assert isinstance(result, JobResult)
    assert result.request_id == job.request_id
    assert result.seed == job.seed
    assert [(p.width, p.height, p.media_type, p.nsfw) for p in result.pictures] == [(96, 64, "image/png", False)] * 2
    assert result.pictures[0].data != result.pictures[1].data
    assert recorder.steps == [("lease", image, step) for image in (1, 2) for step in range(1, 29)]
    assert recorder.messages("lease")[0] == "Drawing 2 images of 96x64 in 28 steps, seed 7"
    tenths = [message for message in recorder.messages("lease") if message.startswith("image 1/2: step")]
    assert tenths == [f"image 1/2: step {step}/28" for step in (3, 6, 9, 12, 14, 17, 20, 23, 26, 28)]
    assert recorder.messages("lease")[-1].startswith("Done in ")
    assert set(result.timings) == {"inference", "text_encode", "denoise", "decode", "safety", "encode"}
    assert result.timings["denoise"] >= 2 * 28 * 0.001, "seconds"
    assert result.timings["inference"] >= result.timings["denoise"] + result.timings["decode"]


def test_the_same_job_gives_the_same_bytes_whatever_is_drawn_beside_it(
    make_engine: MakeEngine, recorder: Recorder
) -> None:
    jobs = [
        make_job(f"r{number}", seed=number, num_images=1 + number % 4, steps=3 + 5 * number, width=64 + 16 * number)
        for number in range(6)
    ]
    engine = make_engine()
    for job in jobs:
        engine.submit(job, job.request_id)
    engine.start()
    recorder.wait(*(job.request_id for job in jobs))
    for job in jobs:
        assert sums(recorder.outcomes[job.request_id]) == alone(job)


def test_image_i_does_not_depend_on_how_many_were_asked_for() -> None:
    assert alone(make_job(num_images=4))[:2] == alone(make_job(num_images=2))


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": "a pear"}, {"width": 80}])
def test_pictures_differ_by_seed_prompt_and_size(change: dict[str, Any]) -> None:
    assert alone(make_job()) != alone(make_job(**change))


@pytest.mark.parametrize("make_engine", ["in turn"], indirect=True)  # overlapping: its prompt is read meanwhile
def test_two_jobs_share_the_engine_and_the_short_one_is_not_held_up(
    make_engine: MakeEngine, recorder: Recorder
) -> None:
    engine = make_engine()

    def submit_a_short_one(lease: str, image: int, step: int) -> None:
        if (lease, step) == ("long", 20):
            engine.submit(make_job("short", steps=4), "short")

    recorder.on_step = submit_a_short_one
    engine.submit(make_job("long", steps=50), "long")
    engine.start()
    recorder.wait("long", "short")
    assert list(recorder.outcomes) == ["short", "long"]
    begun = recorder.steps.index(("short", 1, 1))
    assert recorder.steps[begun - 1] == ("long", 1, 20), "the newcomer steps next"


def test_a_cancelled_job_makes_not_one_step_more(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    recorder.on_step = lambda lease, image, step: engine.cancel("lease") if step == 3 else None
    engine.submit(make_job(steps=50), "lease")
    engine.start()
    recorder.wait("lease")
    failure = recorder.outcomes["lease"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error_type, failure.retryable) == (499, "client_cancelled", False)
    assert failure.body == {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
    assert recorder.steps[-1] == ("lease", 1, 3)


def test_a_dropped_job_ends_without_a_word(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    recorder.on_step = lambda lease, image, step: engine.drop("stale") if (lease, step) == ("stale", 2) else None
    engine.submit(make_job("r1", steps=50), "stale")
    engine.start()
    engine.submit(make_job("r2", steps=60), "other")
    recorder.wait("other")
    assert "stale" not in recorder.outcomes
    assert ("stale", 1, 3) not in recorder.steps


def test_the_same_request_may_come_back_under_a_new_lease(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    engine.submit(make_job("r1", steps=20), "first")
    engine.submit(make_job("r1", steps=20), "second")
    engine.drop("first")
    engine.start()
    recorder.wait("second")
    assert set(recorder.outcomes) == {"second"}


@pytest.mark.parametrize("where", ["encode", "denoise", "decode"])
@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_fails_its_job_only(
    make_engine: MakeEngine, recorder: Recorder, where: str, error: type[BaseException]
) -> None:
    engine = make_engine(Broken(where, error("secret detail")))
    engine.submit(make_job("bad", prompt="break"), "bad")
    engine.submit(make_job("good"), "good")
    engine.start()
    recorder.wait("bad", "good")
    failure = recorder.outcomes["bad"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error_type, failure.retryable) == (500, "internal_server_error", False)
    (item,) = failure.body["detail"]
    assert item["type"] == "internal_server_error"
    assert error.__name__ in item["msg"]
    assert "secret" not in item["msg"], "the text of an unknown error is for the operator's log"
    assert item["loc"] == ["body"]
    assert sums(recorder.outcomes["good"]) == alone(make_job("good"))
    assert not engine.broken


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_free_its_memory_says_that_it_is_broken(
    make_engine: MakeEngine, recorder: Recorder
) -> None:
    class Poisoned(Broken):
        def free_memory(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = make_engine(Poisoned("denoise", RuntimeError("CUDA error")))
    assert not engine.broken
    engine.submit(make_job("bad", prompt="break"), "bad")
    engine.start()
    recorder.wait("bad")
    assert engine.join(PATIENCE)
    assert engine.broken


def test_a_preview_that_fails_costs_nothing(make_engine: MakeEngine, recorder: Recorder) -> None:
    class Blind(FakePipeline):
        def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
            for step in super().denoise(job, conditioning, index=index):
                yield replace(step, preview=lambda: 1 / 0)

    engine = make_engine(Blind())
    engine.submit(make_job("good", preview_every=1), "good")
    engine.start()
    recorder.wait("good")
    assert sums(recorder.outcomes["good"]) == alone(make_job("good"))


def test_an_error_meant_for_the_caller_keeps_its_words(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine(Broken("encode", ModelError.at("prompt", "too odd", "feature_not_supported")))
    engine.submit(make_job(prompt="break"), "lease")
    engine.start()
    recorder.wait("lease")
    failure = recorder.outcomes["lease"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error_type) == (422, "feature_not_supported")
    assert failure.headers["X-Fal-Billable-Units"] == "0"


def test_out_of_memory_alone_names_the_remedy_and_frees_memory(make_engine: MakeEngine, recorder: Recorder) -> None:
    pipeline = Broken("denoise", MemoryError())
    engine = make_engine(pipeline)
    engine.submit(make_job(prompt="break", width=1440, height=1440, steps=2), "lease")
    engine.start()
    recorder.wait("lease")
    failure = recorder.outcomes["lease"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retryable) == (500, False)
    assert "1440x1440" in failure.message
    assert "image_size" in failure.message
    engine.submit(make_job("next"), "next")
    recorder.wait("next")
    assert pipeline.freed == 1


def test_out_of_memory_beside_others_is_worth_another_attempt(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine(Broken("denoise", MemoryError()))
    engine.submit(make_job("bad", prompt="break", steps=2), "bad")
    engine.submit(make_job("good", steps=30), "good")
    engine.start()
    recorder.wait("bad", "good")
    failure = recorder.outcomes["bad"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.retryable) == (503, True)
    assert failure.headers["X-Fal-Retryable"] == "true"


NOTICE = Notice(code="prompt_cut", message="The prompt is too long", field="prompt")


def test_previews_show_every_picture_and_change_nothing(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    engine.submit(make_job("r1", steps=10, num_images=2), "plain")
    engine.submit(make_job("r1", steps=10, num_images=2, preview_every=4), "watched")
    engine.start()
    recorder.wait("plain")
    recorder.wait("watched")
    plain, watched = recorder.outcomes["plain"], recorder.outcomes["watched"]
    assert isinstance(plain, JobResult)
    assert isinstance(watched, JobResult)
    assert [p.data for p in plain.pictures] == [p.data for p in watched.pictures]
    assert sorted(seen[:3] for seen in recorder.previews) == [("watched", i, s) for i in (1, 2) for s in (4, 8)]
    for *_, preview in recorder.previews:
        image = Image.open(io.BytesIO(preview.jpeg))
        assert (image.format, image.size) == ("JPEG", (preview.width, preview.height))


def test_warnings_of_the_pipeline_reach_the_caller(make_engine: MakeEngine, recorder: Recorder) -> None:
    class Warns(FakePipeline):
        def encode(self, job: Job) -> Conditioning:
            return Conditioning(job.prompt, (NOTICE,))

    engine = make_engine(Warns())
    engine.submit(make_job(), "lease")
    engine.start()
    recorder.wait("lease")
    result = recorder.outcomes["lease"]
    assert isinstance(result, JobResult)
    assert result.notices == (NOTICE,)
    assert ("lease", "WARN", "The prompt is too long") in recorder.lines


def test_a_drain_finishes_what_it_can(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    engine.submit(make_job("r1"), "one")
    engine.submit(make_job("r2"), "two")
    engine.drain(PATIENCE)
    engine.submit(make_job("r3"), "late")
    engine.start()
    assert engine.join(PATIENCE)
    assert isinstance(recorder.outcomes["one"], JobResult)
    assert isinstance(recorder.outcomes["two"], JobResult)
    assert recorder.outcomes["late"] == "released"


def test_a_drain_releases_what_it_cannot_finish(make_engine: MakeEngine, recorder: Recorder) -> None:
    engine = make_engine()
    recorder.on_step = lambda lease, image, step: engine.drain(0) if step == 2 else None
    engine.submit(make_job("r1", steps=50), "one")
    engine.submit(make_job("r2", steps=50), "two")
    engine.start()
    assert engine.join(PATIENCE)
    assert recorder.outcomes == {"one": "released", "two": "released"}


def test_a_pipeline_that_makes_no_step_fails_its_job(make_engine: MakeEngine, recorder: Recorder) -> None:
    class Empty(FakePipeline):
        def denoise(self, job: Job, conditioning: Conditioning, *, index: int) -> Iterator[Step]:
            yield from ()

    engine = make_engine(Empty())
    engine.submit(make_job(), "lease")
    engine.start()
    recorder.wait("lease")
    assert isinstance(recorder.outcomes["lease"], Failure)


def test_a_step_that_hangs_can_be_seen_from_outside(make_engine: MakeEngine, recorder: Recorder) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Hangs(FakePipeline):
        def encode(self, job: Job) -> Conditioning:
            entered.set()
            assert leave.wait(PATIENCE)
            return super().encode(job)

    engine = make_engine(Hangs())
    assert engine.stalled_for == 0
    engine.submit(make_job(), "lease")
    engine.start()
    assert entered.wait(PATIENCE)
    assert engine.stalled_for > 0
    leave.set()
    recorder.wait("lease")
