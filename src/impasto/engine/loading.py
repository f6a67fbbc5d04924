"""From settings to a loaded pipeline, for the runner and for `impasto generate`. torch is imported here, on demand."""

from pathlib import Path

from impasto.engine.fake import FakePipeline
from impasto.engine.pipeline import Pipeline
from impasto.errors import WeightsError
from impasto.flux.models import MODELS
from impasto.settings import ModelSettings

HEADROOM = 256 * 2**20  # bytes for Python, torch's libraries and the classifier


def load_pipeline(settings: ModelSettings, *, fake_step_seconds: float = 0.0) -> Pipeline:
    """The pipeline that `settings` name. Raises WeightsError: unknown, missing or broken weights, too little memory."""
    if settings.pipeline == "fake":
        return FakePipeline(settings.name, step_seconds=fake_step_seconds)
    spec = MODELS.get(settings.name)
    if spec is not None and settings.device == "cpu":
        check_memory(spec.memory + HEADROOM, available_memory(), name=spec.name)
    from impasto.engine.flux import FluxPipeline

    return FluxPipeline.load(settings)


def check_memory(needed: int, available: int | None, *, name: str) -> None:
    """Raises WeightsError when `needed` bytes are known not to be there: better than being killed half-way."""
    if available is not None and available < needed:
        raise WeightsError(
            f"{name} needs about {needed / 2**30:.1f} GiB of memory and {available / 2**30:.1f} GiB are free. "
            "Stop other programs or name a smaller model."
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes this process may still take: of the machine and of its control group; None where that cannot be read."""
    found: list[int] = []
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    limit, used = root / "sys/fs/cgroup/memory.max", root / "sys/fs/cgroup/memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()) != "max":
        found.append(int(text) - int(used.read_text(encoding="ascii")))
    return min(found, default=None)
