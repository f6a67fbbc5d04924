"""An engine with a recorder for a sink, and jobs to give it."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from PIL import Image

from impasto.engine.drawing import Finisher, Preview
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.fake import FakePipeline
from impasto.engine.job import Job, JobResult
from impasto.engine.pipeline import Pipeline, Pixels
from impasto.engine.safety import Safety
from impasto.settings import SafetySettings

PATIENCE = 30.0  # seconds until a test gives up; never a measure of speed


def encode_image(pixels: Pixels, format: str) -> tuple[bytes, str]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=format)
    return file.getvalue(), f"image/{format}"


def make_job(request_id: str = "r1", **changes: object) -> Job:
    values: dict[str, object] = {
        "request_id": request_id,
        "model": "fake",
        "prompt": "a red apple",
        "width": 64,
        "height": 48,
        "steps": 4,
        "guidance": 3.5,
        "seed": 7,
        "format": "png",
        **changes,
    }
    return Job(**values)  # type: ignore[arg-type]


@dataclass
class Recorder:
    """A sink that keeps everything and lets a test wait for an outcome."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)  # lease, level, message
    steps: list[tuple[str, int, int]] = field(default_factory=list)  # lease, image, step
    outcomes: dict[str, JobResult | Failure | str] = field(default_factory=dict)
    previews: list[tuple[str, int, int, Preview]] = field(default_factory=list)
    on_step: Callable[[str, int, int], None] = lambda lease, image, step: None
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def log(self, job: Job, lease: str, message: str, *, level: str = "INFO") -> None:
        self.lines.append((lease, level, message))

    def progress(self, job: Job, lease: str, *, image: int, step: int, steps: int) -> None:
        self.steps.append((lease, image, step))
        self.on_step(lease, image, step)

    def preview(self, job: Job, lease: str, preview: Preview, *, image: int, step: int, steps: int) -> None:
        self.previews.append((lease, image, step, preview))

    def done(self, job: Job, lease: str, result: JobResult) -> None:
        self._ends(lease, result)

    def failed(self, job: Job, lease: str, failure: Failure) -> None:
        self._ends(lease, failure)

    def released(self, job: Job, lease: str) -> None:
        self._ends(lease, "released")

    def _ends(self, lease: str, outcome: JobResult | Failure | str) -> None:
        with self._arrived:
            assert lease not in self.outcomes, "a job ends once"
            self.outcomes[lease] = outcome
            self._arrived.notify_all()

    def wait(self, *leases: str) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.outcomes.keys() >= set(leases), PATIENCE), self.outcomes

    def messages(self, lease: str) -> list[str]:
        return [message for owner, _, message in self.lines if owner == lease]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make_engine(recorder: Recorder) -> Iterator[Callable[..., Engine]]:
    """Engines that end with the test. Without a classifier unless one is given."""
    engines: list[Engine] = []

    def make(pipeline: Pipeline | None = None, *, safety: Safety | None = None) -> Engine:
        finisher = Finisher(safety or Safety(SafetySettings(enabled=False), None), encode_image)
        engine = Engine(pipeline=pipeline or FakePipeline(), finisher=finisher, sink=recorder)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.drain(0)
        assert engine.join(PATIENCE)
