"""Whether a model fits, and where its parts go: asked before its weights are read, because being killed half-way
explains nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from impasto.errors import WeightsError

HEADROOM = 256 * 2**20  # bytes for Python, torch's libraries and the classifier


TEXT_PARTS = frozenset({"clip", "t5", "text_encoder"})
"""What only reads prompts: once a request, so it may be slow and far away."""

Residency = Literal["auto", "device", "text_on_host"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes that loading will take on the device and on the host; where the text encoders go."""

    device: int
    host: int
    text_on_host: bool

    @property
    def sentence(self) -> str:
        where = "text encoders on the CPU" if self.text_on_host else "all on the device"
        return f"{self.device / 2**30:.1f} GiB on the GPU, {self.host / 2**30:.1f} GiB on the host ({where})"


def plan(
    parts: Mapping[str, int],
    *,
    working: int,
    device_free: int | None,
    host_free: int | None,
    name: str,
    asked: Residency = "auto",
) -> Plan:
    """Where the parts of a model (bytes by role) go on a machine with a GPU that has `device_free` bytes.

    `working`: what a picture in the making takes on the device. None: not known, taken to be enough. Raises
    WeightsError with both figures when no arrangement fits.
    """
    text = sum(size for role, size in parts.items() if role in TEXT_PARTS)
    whole = sum(parts.values()) + working
    near, far = Plan(whole, HEADROOM, False), Plan(whole - text, HEADROOM + text, True)
    for choice in {"auto": (near, far), "device": (near,), "text_on_host": (far,)}[asked]:
        fits = device_free is None or choice.device <= device_free
        if fits and (host_free is None or choice.host <= host_free):
            return choice
    least = far if asked != "device" else near
    raise WeightsError(
        f"{name} needs {least.sentence}; {_gib(device_free)} and {_gib(host_free)} are free. "
        "Stop other programs, name a smaller model, or run it on the CPU (model.device = cpu)."
    )


def _gib(size: int | None) -> str:
    return "an unknown amount" if size is None else f"{size / 2**30:.1f} GiB"


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
