"""From settings to a loaded pipeline, for the runner and for `impasto generate`. torch is imported here, on demand."""

from impasto.engine.fake import FakePipeline
from impasto.engine.pipeline import Pipeline
from impasto.settings import ModelSettings


def load_pipeline(settings: ModelSettings, *, fake_step_seconds: float = 0.0) -> Pipeline:
    """The pipeline that `settings` name. Raises WeightsError: unknown, missing or broken weights, too little memory."""
    if settings.pipeline == "fake":
        return FakePipeline(settings.name, step_seconds=fake_step_seconds)
    from impasto.engine.flux import FluxPipeline

    return FluxPipeline.load(settings)
