"""From settings to a pipeline: what cannot be loaded says why and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from impasto.engine.fake import FakePipeline
from impasto.engine.loading import load_pipeline
from impasto.engine.memory import HEADROOM, available_memory, check_memory, plan, plan_on_cpu
from impasto.errors import WeightsError
from impasto.flux.residency import Footprint, Needs, Residency
from impasto.settings import ModelSettings


def test_the_fake_pipeline_takes_the_configured_name() -> None:
    pipeline = load_pipeline(ModelSettings(name="flux.1-dev", pipeline="fake"))
    assert isinstance(pipeline, FakePipeline)
    assert pipeline.models == ("flux.1-dev",)


def test_too_little_memory_is_said_before_it_kills() -> None:
    check_memory(2**30, 2**31, name="model")
    check_memory(2**30, None, name="model")
    with pytest.raises(WeightsError, match=r"model needs about 4\.0 GiB of memory and 1\.0 GiB are free"):
        check_memory(2**32, 2**30, name="model")


def test_the_control_group_counts_too(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert available_memory(tmp_path) == 2048 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) == 2048 * 1024
    (group / "memory.max").write_text("5000\n")
    assert available_memory(tmp_path) == 4000
    assert available_memory(tmp_path / "nowhere") is None


def test_a_fake_runner_needs_no_torch() -> None:
    """The engine with the fake pipeline and the classifier: what CI without torch runs."""
    code = """
import sys
sys.modules["torch"] = None
from impasto.engine import drawing, engine, fake, loading, safety
from impasto.settings import ModelSettings, SafetySettings
loading.load_pipeline(ModelSettings(pipeline="fake"))
safety.Safety.load(SafetySettings())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


GIB = 2**30
WIDE = Footprint(GIB, (GIB // 2,) * 12, (GIB,) * 17)  # 24 GiB
NARROW = Footprint(GIB, (GIB // 4,) * 12, (GIB // 2,) * 17)  # 12.5 GiB


def needs(**changes: object) -> Needs:
    values: dict[str, object] = {
        "name": "m", "transformer": {"full": WIDE, "int8": NARROW, "fp8": NARROW}, "text": 10 * GIB,
        "text_on_host": 10 * GIB, "others": GIB, "working": 2 * GIB,
    }  # fmt: skip
    return Needs(**values | changes)  # type: ignore[arg-type]


LADDER = [  # free on the device, free on the host → what is away, device, host
    (37, 1, Residency(), 37, 0),
    (36, 32, Residency(text_on_host=True), 27, 10),
    (26, 32, Residency(text_on_host=True, modulation_on_host=True), 22, 16),
    (21, 32, Residency(text_on_host=True, modulation_on_host=True, streamed=2), 21, 18),
    (6, 40, Residency(text_on_host=True, modulation_on_host=True, streamed=17), 6, 33),
    (21, 18, Residency(text_on_host=True, kept="int8"), 15.5, 10),
    (13, 18, Residency(text_on_host=True, modulation_on_host=True, kept="int8"), 13, 13),
]


@pytest.mark.parametrize(("device", "host", "residency", "near", "away"), LADDER)
def test_the_first_arrangement_that_fits_is_taken(
    device: int, host: int, residency: Residency, near: float, away: int
) -> None:
    found = plan(needs(), device_free=device * GIB, host_free=host * GIB)
    assert found.residency == residency
    assert (found.device, found.host) == (near * GIB, away * GIB + HEADROOM)
    assert bool(found.remark) == (residency.streamed > 0 or residency.kept == "int8"), "what costs is said"


def test_memory_that_cannot_be_measured_is_taken_to_be_enough() -> None:
    assert plan(needs(), device_free=None, host_free=None).residency == Residency()


def test_what_lies_in_the_file_as_it_is_needed_may_stay_there_when_nothing_else_fits() -> None:
    tight = {"device_free": 6 * GIB, "host_free": 12 * GIB}
    found = plan(needs(mappable=True), **tight)  # type: ignore[arg-type]
    assert found.residency.mapped
    assert found.residency.kept == "full"
    assert found.host == 10 * GIB + HEADROOM
    with pytest.raises(WeightsError, match=r"m needs .*12\.0 GiB are free"):
        plan(needs(), **tight)  # type: ignore[arg-type]


def test_weights_in_fp8_stay_so_unless_everything_fits_widened() -> None:
    stored = needs(stored="fp8")
    assert plan(stored, device_free=40 * GIB, host_free=64 * GIB).residency == Residency()
    assert plan(stored, device_free=30 * GIB, host_free=64 * GIB).residency == Residency(kept="fp8")
    low = plan(stored, device_free=16 * GIB, host_free=64 * GIB)
    assert low.residency == Residency(text_on_host=True, kept="fp8")
    assert not low.remark, "no number changes"


def test_a_wish_is_kept_or_refused_never_changed() -> None:
    asked = plan(needs(), device_free=80 * GIB, host_free=64 * GIB, asked="text_on_host")
    assert asked.residency == Residency(text_on_host=True)
    layers = plan(needs(), device_free=80 * GIB, host_free=64 * GIB, asked="layers_on_host", bits="int8")
    assert layers.residency.kept == "int8"
    assert layers.residency.streamed == 17, "who asks for it wants the device for other things"
    assert plan(needs(), device_free=26 * GIB, host_free=64 * GIB, asked="device").residency == Residency(kept="int8")
    with pytest.raises(WeightsError, match=r"37\.0 GiB on the GPU.*30\.0 GiB"):
        plan(needs(), device_free=30 * GIB, host_free=64 * GIB, asked="device", bits="full")
    with pytest.raises(WeightsError, match=r"m needs"):
        plan(needs(), device_free=5 * GIB, host_free=18 * GIB, bits="full")


def test_a_cpu_takes_eight_bits_only_when_it_must() -> None:
    assert plan_on_cpu(needs(), free=38 * GIB).residency == Residency()
    tight = plan_on_cpu(needs(), free=26 * GIB)
    assert tight.residency.kept == "int8"
    assert "int8" in tight.remark
    assert plan_on_cpu(needs(stored="fp8"), free=26 * GIB).remark == ""
    with pytest.raises(WeightsError, match=r"m needs about 37\.2 GiB of memory and 26\.0 GiB are free"):
        plan_on_cpu(needs(), free=26 * GIB, bits="full")
    with pytest.raises(WeightsError, match=r"m needs about 25\.8 GiB"):
        plan_on_cpu(needs(), free=16 * GIB)
