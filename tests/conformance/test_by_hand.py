"""The ways of docs/clients.md that need no exec: variables set by hand, and the listener that they lead to."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

Program = Callable[..., Any]

SOURCE = """
import json, fal_client
handle = fal_client.submit("fal-ai/flux-pro", arguments={"prompt": "a cat", "image_size": "square"})
outputs = [handle.get(), fal_client.run("fal-ai/flux-pro", arguments={"prompt": "a cat", "image_size": "square"})]
print(json.dumps({"url": handle.response_url, "outputs": outputs}))
"""


def run(variables: dict[str, str]) -> Any:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FAL_", "IMPASTO_"))}
    done = subprocess.run(
        [sys.executable, "-c", SOURCE],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def listener(server: Any, certificates: Path) -> Iterator[dict[str, str]]:
    """`python -m impasto.client listen`: proxy, tls and authority as it prints them."""
    ports = ["--connect-port", "0", "--tls-port", "0", "--tls", str(certificates / "tls")]
    process = subprocess.Popen(
        [sys.executable, "-m", "impasto.client", "listen", "--url", server.url, *ports],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        said = "".join(process.stdout.readline() for _ in range(3))
        found = re.search(r"HTTPS_PROXY=(\S+) (?s:.*) on (\S+)\n.*trust (.+)\n", said)
        assert found, said
        yield {"proxy": found[1], "tls": found[2], "authority": found[3]}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_method_b_hosts_by_environment(listener: dict[str, str], check_output: Program) -> None:
    said = run(
        {
            "FAL_KEY": "local:local",
            "FAL_RUN_HOST": listener["tls"],
            "FAL_QUEUE_RUN_HOST": listener["tls"] + "/queue",
            "SSL_CERT_FILE": listener["authority"],
        }
    )
    assert said["url"].startswith(f"https://{listener['tls']}/queue/fal-ai/flux-pro/requests/")
    for output in said["outputs"]:
        check_output(output, prompt="a cat")


def test_method_d_variables_by_hand(server: Any, check_output: Program) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "impasto.client", "env", "--url", server.url],
        env={k: v for k, v in os.environ.items() if not k.startswith("FAL_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert all(line.startswith("export ") for line in done.stdout.splitlines())
    assignments = [shlex.split(line)[1].partition("=") for line in done.stdout.splitlines()]  # as a shell reads them
    said = run({name: value for name, _, value in assignments})
    assert said["url"].startswith("https://queue.fal.run/fal-ai/flux-pro/requests/")
    for output in said["outputs"]:
        check_output(output, prompt="a cat")


def test_method_e_proxy_by_hand(listener: dict[str, str], check_output: Program) -> None:
    said = run(
        {
            "FAL_KEY": "local:local",
            "HTTPS_PROXY": listener["proxy"],
            "https_proxy": listener["proxy"],
            "SSL_CERT_FILE": listener["authority"],
        }
    )
    assert said["url"].startswith("https://queue.fal.run/fal-ai/flux-pro/requests/")
    for output in said["outputs"]:
        check_output(output, prompt="a cat")


def test_a_rounded_size_is_told_in_one_header_and_the_logs(server: Any) -> None:
    """The wire's shape stays fal's; who wants to know looks at X-Impasto-Warnings."""
    body = {"prompt": "a cat", "image_size": {"width": 500, "height": 333}}
    with httpx.Client(base_url=server.url, headers={"Authorization": "Key a:b"}) as http:
        answer = http.post("/fal-ai/flux-pro", json=body, timeout=60)
        assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == (496, 336)
        (warning,) = json.loads(answer.headers["x-impasto-warnings"])
        assert (warning["code"], warning["field"]) == ("size_rounded", "image_size")
        at = f"/queue/fal-ai/flux-pro/requests/{answer.headers['x-fal-request-id']}"
        assert answer.headers["x-fal-billable-units"] == http.get(at).headers["x-fal-billable-units"] == "1"
        assert http.get(at).headers["x-impasto-warnings"] == answer.headers["x-impasto-warnings"]
        logs = http.get(at + "/status?logs=1").json()["logs"]
        assert [log["message"] for log in logs if log["level"] == "WARN"] == [warning["message"]]
        assert "x-impasto-warnings" not in http.post("/fal-ai/flux-pro", json={"prompt": "a"}, timeout=60).headers
