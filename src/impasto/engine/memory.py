"""Whether a model fits: asked before its weights are read, because being killed half-way explains nothing."""

from pathlib import Path

from impasto.errors import WeightsError

HEADROOM = 256 * 2**20  # bytes for Python, torch's libraries and the classifier


def check_memory(needed: int, available: int | None, *, name: str) -> None:
    """Raises WeightsError when `needed` bytes are known not to be there."""
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
