"""From settings to a pipeline: what cannot be loaded says why and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from impasto.engine.fake import FakePipeline
from impasto.engine.loading import load_pipeline
from impasto.engine.memory import HEADROOM, available_memory, check_memory, plan
from impasto.errors import WeightsError
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
PARTS = {"transformer": 24 * GIB, "autoencoder": GIB, "t5": 9 * GIB, "clip": GIB}


def test_the_text_encoders_go_to_the_host_when_the_device_is_too_small_for_all() -> None:
    all_there = plan(PARTS, working=2 * GIB, device_free=40 * GIB, host_free=32 * GIB, name="m")
    assert (all_there.text_on_host, all_there.device) == (False, 37 * GIB)
    tight = plan(PARTS, working=2 * GIB, device_free=30 * GIB, host_free=32 * GIB, name="m")
    assert (tight.text_on_host, tight.device, tight.host) == (True, 27 * GIB, 10 * GIB + HEADROOM)
    assert plan(PARTS, working=2 * GIB, device_free=None, host_free=None, name="m") == all_there


def test_a_wish_is_kept_or_refused_never_changed() -> None:
    asked = plan(PARTS, working=0, device_free=80 * GIB, host_free=32 * GIB, name="m", asked="text_on_host")
    assert asked.text_on_host
    with pytest.raises(WeightsError, match=r"35\.0 GiB on the GPU.*30\.0 GiB"):
        plan(PARTS, working=0, device_free=30 * GIB, host_free=32 * GIB, name="m", asked="device")


def test_what_fits_nowhere_is_said_with_all_figures() -> None:
    with pytest.raises(WeightsError, match=r"m needs 25\.0 GiB on the GPU.*16\.0 GiB and 32\.0 GiB are free"):
        plan(PARTS, working=0, device_free=16 * GIB, host_free=32 * GIB, name="m")
    with pytest.raises(WeightsError, match=r"10\.2 GiB on the host.*4\.0 GiB are free"):
        plan(PARTS, working=0, device_free=30 * GIB, host_free=4 * GIB, name="m")
