"""What becomes of a verdict: passed, black, or refused. Settings say what, the request how strictly."""

from typing import cast

from impasto.engine.job import Job
from impasto.engine.pipeline import Pixels
from impasto.engine.safety.base import SEXUAL_MINORS, PictureCheck, PromptCheck, Verdict, find
from impasto.engine.safety.pictures import OpenNsfw, ScoredPictures
from impasto.engine.safety.prototypes import RulesAndPrototypes
from impasto.engine.safety.rules import Rules
from impasto.errors import ModelError
from impasto.settings import SafetySettings

# fal's own sentence: clients compare it
CONTENT_POLICY_MESSAGE = (
    "The content could not be processed because it contained material flagged by a content checker."
)
PASSED = Verdict(False, 0.0)


class Safety:
    """Settings and checks together. A check that is None passes everything; one rule holds even so (`screen`)."""

    def __init__(
        self, settings: SafetySettings, pictures: PictureCheck | None = None, prompts: PromptCheck | None = None
    ) -> None:
        self._settings = settings
        self._pictures = pictures
        self._prompts = prompts
        shipped = isinstance(prompts, Rules | RulesAndPrototypes)
        self._minors = prompts if shipped else Rules.load(settings.prompt_thresholds)

    @classmethod
    def load(cls, settings: SafetySettings) -> "Safety":
        """With the checks that the settings name. Raises WeightsError (classifier missing), ConfigError (bad name)."""
        if not settings.enabled:
            return cls(settings)
        return cls(settings, _picture_check(settings), _prompt_check(settings))

    @property
    def enabled(self) -> bool:
        """Whether pictures are looked at."""
        return self._pictures is not None

    @property
    def refuses(self) -> bool:
        """Whether a flagged picture fails its request instead of becoming black."""
        return self._settings.on_flagged == "error"

    @staticmethod
    def refusal() -> ModelError:
        return ModelError.at("prompt", CONTENT_POLICY_MESSAGE, "content_policy_violation")

    def screen(self, job: Job) -> Verdict:
        """The job's prompt, before anything is drawn. Raises nothing by itself: `must_refuse` reads the verdict.

        Sexual content with minors is looked for always: with the checks disabled, at every tolerance, and beside a
        third party's check.
        """
        verdict = self._screen(job)
        if isinstance(self._minors, RulesAndPrototypes):
            self._minors.forget()
        return verdict

    def _screen(self, job: Job) -> Verdict:
        words = job.prompt or job.unheard
        worst = self._minors.sexual_minors(words)
        if worst.flagged or self._prompts is None or not job.safety_checker:
            return worst if worst.flagged else PASSED
        return self._prompts.judge(words, tolerance=job.safety_tolerance)

    def must_refuse(self, verdict: Verdict) -> bool:
        return verdict.flagged and (self.refuses or verdict.category == SEXUAL_MINORS)

    def judge(self, pixels: Pixels, *, tolerance: int) -> Verdict:
        """`tolerance` 1 (strictest) to 6."""
        return PASSED if self._pictures is None else self._pictures.judge(pixels, tolerance=tolerance)


def _picture_check(settings: SafetySettings) -> PictureCheck | None:
    match settings.picture_check:
        case "none":
            return None
        case "open_nsfw":
            return ScoredPictures(OpenNsfw(), settings.thresholds)
        case name:
            return cast(PictureCheck, find(name, setting="safety.picture_check")(settings))


def _prompt_check(settings: SafetySettings) -> PromptCheck | None:
    match settings.prompt_check:
        case "none":
            return None
        case "rules+prototypes":
            return RulesAndPrototypes.load(settings.prompt_thresholds)
        case "rules":
            return Rules.load(settings.prompt_thresholds)
        case name:
            return cast(PromptCheck, find(name, setting="safety.prompt_check")(settings))
