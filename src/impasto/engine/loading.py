"""From settings to a loaded pipeline, for the runner and for `impasto generate`. torch is imported here, on demand."""

import os

from impasto import telemetry
from impasto.engine.fake import FakePipeline
from impasto.engine.pipeline import Pipeline
from impasto.settings import ModelSettings


def load_pipeline(settings: ModelSettings) -> Pipeline:
    """The pipeline that `settings` name. Raises WeightsError: unknown, missing or broken weights, too little memory."""
    if settings.pipeline == "fake":
        return FakePipeline(settings.name, step_seconds=settings.fake_step_seconds)
    # Read when torch is loaded. Threads that spin while they wait drew twenty times slower beside other work
    # (benchmarks/LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    from impasto.engine.flux import FluxPipeline

    telemetry.adopt()
    return FluxPipeline.load(settings)
