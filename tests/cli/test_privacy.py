"""No telemetry: nothing leaves the machine and nothing is written below HOME that the user has not asked for."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from impasto import quiet
from impasto.files.images import encode
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux

from .conftest import IMPASTO
from .sealed import PROBE_ADDRESS, PROBE_NAME

SEALED = Path(__file__).with_name("sealed.py")
DAY = """
import json, re, signal, subprocess, sys, time, urllib.error, urllib.request
command, bodies, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), []
server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\\S+)", line)))
def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url + path, data, {"Authorization": "Key a:b", "Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
deadline = time.monotonic() + 120
while ask("/readyz")[0] != 200 and time.monotonic() < deadline:
    time.sleep(0.1)
answers = [ask(path, body) for path, body in bodies]
time.sleep(float(sys.argv[3]))
server.send_signal(signal.SIGTERM)
print(json.dumps([(status, text if status != 200 else "") for status, text in answers]), server.wait(60))
"""


def can_seal() -> bool:
    done = subprocess.run(["unshare", *flags(), "true"], capture_output=True, check=False)
    return done.returncode == 0


def flags() -> list[str]:
    return ["--net", "--mount"] if os.geteuid() == 0 else ["--net", "--mount", "--map-root-user"]


@pytest.fixture
def plain_environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a user who has set nothing, with an empty HOME."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    kept = {"PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name in kept} | {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def write_lora(path: Path) -> Path:
    with torch.device("meta"):
        layers = {n: m for n, m in Flux(IMPASTO_MINI.transformer).named_modules() if isinstance(m, nn.Linear)}
    name, layer = next((n, m) for n, m in layers.items() if n.startswith("single_blocks"))
    down, up = torch.full((1, layer.in_features), 0.01), torch.full((layer.out_features, 1), 0.01)
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    return path


@pytest.mark.skipif(not can_seal(), reason="this machine allows no network namespaces")
def test_a_server_and_a_command_that_draw_reach_nobody_and_leave_home_empty(
    tmp_path: Path, plain_environment: dict[str, str], blank: str
) -> None:
    lora = write_lora(tmp_path / "style.safetensors")
    small = {"prompt": "a red apple", "num_inference_steps": 2, "sync_mode": True}
    bodies = [
        ["/fal-ai/flux-pro", small | {"image_size": "square"}],
        ["/fal-ai/flux/dev/image-to-image", small | {"image_url": blank, "num_inference_steps": 10}],
        ["/fal-ai/flux-lora", small | {"image_size": "square", "loras": [{"path": lora.name, "scale": 1.0}]}],
    ]
    serve = [*IMPASTO, "serve", "--port", "0", "--data", str(tmp_path / "data")]
    drawn = tmp_path / "drawn.png"
    commands = [
        [sys.executable, "-c", DAY, json.dumps(serve), json.dumps(bodies), "2"],
        [*IMPASTO, "generate", "a star", "-o", str(drawn), "--steps", "2", "--lora", str(lora)],
        [*IMPASTO, "doctor", "--data", str(tmp_path / "data"), "--port", "0"],
    ]
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(commands))
    done = subprocess.run(
        ["unshare", *flags(), sys.executable, str(SEALED), str(spec)],
        env=plain_environment | {"IMPASTO_LORA_FOLDER": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    seen: dict[str, Any] = json.loads(done.stdout or "{}")
    assert seen, done.stderr
    (served, answers, errors), (drew, _, complaint), _ = seen["ended"]
    assert (served, answers.strip()) == (0, '[[200, ""], [200, ""], [200, ""]] 0'), errors
    assert (drew, drawn.is_file()) == (0, True), complaint
    assert (seen["names"], seen["packets"]) == ([PROBE_NAME], [f"{PROBE_ADDRESS}:443"])
    assert list((tmp_path / "home").rglob("*")) == []
    assert list((tmp_path / "tmp").rglob("*")) == []


@pytest.fixture
def blank() -> str:
    import numpy as np

    picture, _ = encode(np.full((96, 128, 3), 200, np.uint8), "png")
    return "data:image/png;base64," + base64.b64encode(picture).decode()


@pytest.fixture
def python(plain_environment: dict[str, str]) -> Callable[..., str]:
    def run(code: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=plain_environment | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout.strip()

    return run


def test_the_tests_are_silent_before_they_load_a_library() -> None:
    assert {name: os.environ.get(name) for name in quiet.SILENT} == quiet.SILENT


@pytest.mark.parametrize("module", ["impasto.cli", "impasto.fleet.runner", "impasto.fleet.decoder", "impasto.client"])
def test_every_process_is_silent_before_it_loads_a_library(python: Callable[..., str], module: str) -> None:
    said = python(f"import {module}, os; print([os.environ.get(name) for name in {sorted(quiet.SILENT)!r}])")
    assert said == str([quiet.SILENT[name] for name in sorted(quiet.SILENT)])


def test_what_the_user_has_set_stays(python: Callable[..., str]) -> None:
    said = python("import impasto, os; print(os.environ['ORT_DISABLE_TELEMETRY'])", ORT_DISABLE_TELEMETRY="0")
    assert said == "0"


def test_a_program_under_exec_gets_the_users_environment_and_not_ours(python: Callable[..., str]) -> None:
    code = "import os; from impasto import quiet; print({name: quiet.users_own(os.environ).get(name) for name in %r})"
    names = ["ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK"]
    assert python(code % names, DO_NOT_TRACK="yes") == str({"ORT_DISABLE_TELEMETRY": None, "DO_NOT_TRACK": "yes"})


def test_caches_of_libraries_go_below_the_data_folder(tmp_path: Path) -> None:
    environment = {"TRITON_HOME": "/mine"}
    quiet.keep_caches_in(tmp_path, environment)
    assert environment.pop("TRITON_HOME") == "/mine"
    assert {Path(value).parent for value in environment.values()} == {tmp_path}
