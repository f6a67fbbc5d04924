"""Whether a model fits, and where its parts go: asked before its weights are read, because being killed half-way
explains nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from impasto.errors import WeightsError
from impasto.flux.residency import EVERYTHING_NEAR, Kept, Needs, Residency

HEADROOM = 256 * 2**20  # bytes for Python, torch's libraries and the classifier


Asked = Literal["auto", "device", "text_on_host", "modulation_on_host", "layers_on_host"]
Bits = Literal["auto", "full", "fp8", "int8"]
"""The settings `model.residency` and `model.weights_dtype`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes that a model will take on the device and on the host, and where that puts its parts. `remark`: what its
    owner should know of the choice.
    """

    device: int
    host: int
    residency: Residency = EVERYTHING_NEAR
    remark: str = ""

    @property
    def sentence(self) -> str:
        gpu = f"{self.device / 2**30:.1f} GiB on the GPU, {self.host / 2**30:.1f} GiB on the host"
        return f"{gpu} ({self.residency.words})"


def plan(
    needs: Needs,
    *,
    device_free: int | None,
    host_free: int | None,
    asked: Asked = "auto",
    bits: Bits = "auto",
) -> Plan:
    """Where the parts of a model go on a machine with a GPU that has `device_free` bytes.

    The first arrangement that fits, of these: everything on the device; the text encoder on the host; the modulation
    too; as few blocks as it takes. All of that with the weights as they are, then in 8 bits, then as they are, read
    from the file at its pace. Weights that are stored in fp8 stay so from the second arrangement on: that changes no
    number. An arrangement that is `asked` for is that one, with all blocks away if any. None: not known, taken to be
    enough. Raises WeightsError with both figures when nothing fits.
    """
    found = [
        _costs(needs, residency if asked != "auto" else _fewest(needs, residency, device_free))
        for residency in _arrangements(needs, asked, bits)
    ]
    for each in found:
        if _fits(each.device, device_free) and _fits(each.host, host_free):
            return replace(each, remark=_remark(needs, each.residency, bits))
    raise WeightsError(
        f"{needs.name} needs {found[-1].sentence}; {_gib(device_free)} and {_gib(host_free)} are free. "
        "Stop other programs, name a smaller model, or run it on the CPU (model.device = cpu)."
    )


def plan_on_cpu(needs: Needs, *, free: int | None, bits: Bits = "auto") -> Plan:
    """The same without a GPU: everything in the CPU's memory, in 8 bits when it must be. Raises WeightsError."""
    choices = _bits(needs, bits)
    found = [Plan(0, _whole(needs, kept) + HEADROOM, Residency(kept=kept)) for kept in choices]
    for each in found:
        if _fits(each.host, free):
            return replace(each, remark=_remark(needs, each.residency, bits))
    check_memory(found[-1].host, free, name=needs.name)
    return found[-1]


def _whole(needs: Needs, kept: Kept) -> int:
    transformer = needs.transformer[kept].near(EVERYTHING_NEAR)
    return transformer + needs.text + needs.others + needs.working


def _bits(needs: Needs, bits: Bits) -> tuple[Kept, ...]:
    if bits != "auto":
        return (bits,)
    return ("full", "fp8") if needs.stored == "fp8" else ("full", "int8")


def _arrangements(needs: Needs, asked: Asked, bits: Bits) -> Iterator[Residency]:
    choices = _bits(needs, bits)
    if bits == "auto" and needs.stored == "fp8" and asked == "auto":
        # Widened they draw the same, a little faster: worth it only when nothing has to move for that.
        yield Residency()
        choices = ("fp8",)
    every = len(needs.transformer["full"].blocks)
    ladder = {
        "device": Residency(),
        "text_on_host": Residency(text_on_host=True),
        "modulation_on_host": Residency(text_on_host=True, modulation_on_host=True),
        "layers_on_host": Residency(text_on_host=True, modulation_on_host=True, streamed=every),
    }
    rungs = tuple(ladder.values()) if asked == "auto" else (ladder[asked],)
    for kept in choices:
        yield from (replace(rung, kept=kept) for rung in rungs)
    if needs.mappable and asked in {"auto", "layers_on_host"}:
        yield replace(ladder["layers_on_host"], kept=choices[0], mapped=True)


def _fewest(needs: Needs, residency: Residency, device_free: int | None) -> Residency:
    """`residency` with as few of its blocks away as leave room for the rest; with all when even that is too much."""
    for count in range(1, residency.streamed):
        fewer = replace(residency, streamed=count)
        if _fits(_costs(needs, fewer).device, device_free):
            return fewer
    return residency


def _costs(needs: Needs, residency: Residency) -> Plan:
    footprint = needs.transformer[residency.kept]
    text_away, reading = (needs.text_on_host, needs.reading) if residency.text_on_host else (0, 0)
    near = footprint.near(residency) + needs.others + needs.text - text_away + max(needs.working, reading)
    away = text_away + (0 if residency.mapped else footprint.away(residency))
    return Plan(near, HEADROOM + away, residency)


def _remark(needs: Needs, residency: Residency, bits: Bits) -> str:
    full, chosen = needs.transformer["full"].whole / 2**30, needs.transformer[residency.kept].whole / 2**30
    if residency.kept == "int8" and bits == "auto":
        return (
            f"the transformer does not fit with its {full:.1f} GiB of weights, so they are rounded to int8 "
            f"({chosen:.1f} GiB): pictures differ a little; model.weights_dtype = full forbids it"
        )
    if residency.streamed and residency.kept == "full":
        narrow = _bits(needs, "auto")[-1]
        loss = ", and pictures differ a little" if narrow == "int8" else " for the same pictures"
        return (
            f"{residency.streamed} blocks travel to the GPU at every step; with model.weights_dtype = {narrow} the "
            f"transformer takes {needs.transformer[narrow].whole / 2**30:.1f} GiB instead of {full:.1f}{loss}"
        )
    return ""


def _fits(size: int, free: int | None) -> bool:
    return free is None or size <= free


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
