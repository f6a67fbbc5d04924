"""What a job's `acceleration` leads to: step caching at the threshold that the settings give for it, and for "high" the
linears in 8 bits where they are kept.

"none" is exact: the same numbers as without this module. Who does not say gets what the settings say, which is none
unless an operator decided otherwise. What is done is named in the result (`Speed.report`).
"""

from __future__ import annotations

from dataclasses import dataclass

from impasto.engine.job import Acceleration, Job, Notice
from impasto.flux.step_cache import FEWEST_STEPS, Threshold
from impasto.settings import ModelSettings


@dataclass(frozen=True, slots=True)
class Speed:
    """What is done for one job; `notices`: why something that was asked is not."""

    caching: Threshold | None = None
    fp8: bool = False
    notices: tuple[Notice, ...] = ()

    def report(self, steps: int, reused: int) -> tuple[Notice, ...]:
        """What was done, for the result: `reused` of all `steps` took over the work of the one before."""
        ways = ["with linears in 8 bits"] if self.fp8 else []
        if self.caching is not None:
            if not reused and not ways:
                return (_ignored(f"none of {steps} steps was like the one before"),)
            counted = f"{reused} of {steps} steps took over the work of the one before"
            ways.append(f"with a step cache (threshold {self.caching.change:g}): {counted}")
        if not ways:
            return ()
        message = f"Drawn {' and '.join(ways)}. Ask acceleration none for the exact picture."
        return (Notice(code="accelerated", message=message, field="acceleration"),)


EXACT = Speed()


def choose(job: Job, settings: ModelSettings, *, fp8: bool = False) -> Speed:
    """What this job gets; every sample of it the same. `fp8`: linears in 8 bits are there."""
    asked = job.acceleration
    level = _level(asked, settings)
    if level == "none":
        return EXACT if asked in {None, "none"} else Speed(notices=(_ignored("this server draws exact pictures only"),))
    quick = fp8 and level == "high"
    change = settings.step_cache[0 if level == "regular" else 1]
    if change and job.steps >= FEWEST_STEPS:
        return Speed(caching=Threshold(change), fp8=quick)
    if quick or asked is None:
        return Speed(fp8=quick)
    reason = f"no step can be left out of {job.steps}, only of {FEWEST_STEPS} or more"
    return Speed(notices=(_ignored(reason if change else "this server reuses no steps"),))


def _level(asked: Acceleration | None, settings: ModelSettings) -> Acceleration:
    if settings.acceleration == "none":
        return "none"
    if asked is not None:
        return asked
    return "none" if settings.acceleration == "asked" else settings.acceleration


def _ignored(reason: str) -> Notice:
    return Notice(code="field_ignored", message=f"acceleration has no effect: {reason}.", field="acceleration")
