"""`impasto exec` leaves a program what it is: status, streams, signals; and says what is wrong before it starts."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from impasto.client.execute import isolating_flag

BOTH = pytest.mark.parametrize("method", ["shim", "connect"])
Execute = Callable[..., subprocess.CompletedProcess[str]]


@BOTH
@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status_is_the_programs(execute: Execute, method: str, status: int) -> None:
    assert execute(sys.executable, "-c", f"raise SystemExit({status})", method=method).returncode == status


@BOTH
def test_standard_streams_are_the_programs(execute: Execute, method: str) -> None:
    done = execute(
        sys.executable,
        "-c",
        "import sys; sys.stdout.write(input()[::-1]); sys.stderr.write('err')",
        input="abc",
        method=method,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("cba", "err", 0)


@BOTH
def test_the_process_becomes_the_program(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str], method: str
) -> None:
    """Same process id and no child that the program does not know of: `os.wait()` of a program must not find one."""
    source = "import os\ntry:\n  os.wait()\nexcept ChildProcessError:\n  print(os.getpid())"
    process = subprocess.Popen(
        impasto_exec(sys.executable, "-c", source, method=method), env=clean, stdout=subprocess.PIPE
    )
    out, _ = process.communicate(timeout=60)
    assert int(out) == process.pid


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_program(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str], method: str, number: signal.Signals
) -> None:
    source = (
        "import signal, sys\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, lambda n, _: sys.exit(40 + n))\n"
        "print('up', flush=True)\nsignal.pause()"
    )
    process = subprocess.Popen(
        impasto_exec(sys.executable, "-c", source, method=method), env=clean, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(timeout=60) == 40 + number


def test_death_by_signal_is_seen_as_such(execute: Execute) -> None:
    assert execute("sh", "-c", "kill -KILL $$").returncode == -signal.SIGKILL


def test_sigpipe_ends_the_program_as_usual(execute: Execute) -> None:
    """Python ignores SIGPIPE for itself; a program that inherited that would never end in `program | head`."""
    ignored = int(execute("sh", "-c", "grep SigIgn /proc/$$/status").stdout.split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))


def test_missing_server_is_said_before_the_program_starts(execute: Execute, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    done = execute("touch", str(witness), url="http://127.0.0.1:9")
    assert done.returncode == 69
    assert done.stderr.startswith("impasto: no server at http://127.0.0.1:9 (")
    assert "impasto serve" in done.stderr
    assert "--url" in done.stderr
    assert not witness.exists()


def test_another_server_is_not_taken_for_impasto(
    execute: Execute, echo_server: Callable[..., object], server: str
) -> None:
    done = execute("true", url=f"{server}/elsewhere")
    assert done.returncode == 69
    assert "is not an impasto server (GET /healthz: 200)" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://:80", "http://127.0.0.1:notaport"])
def test_a_url_that_is_none_is_refused(execute: Execute, url: str) -> None:
    done = execute("true", url=url)
    assert done.returncode == 2
    assert done.stderr == f"impasto: server URL {url!r}: must be http://HOST[:PORT] or https://HOST[:PORT].\n"


def test_unknown_command_is_127_and_a_file_that_is_no_program_126(execute: Execute, tmp_path: Path) -> None:
    done = execute("no-such-command-anywhere")
    assert (done.returncode, done.stderr) == (127, "impasto: no-such-command-anywhere: command not found.\n")
    file = tmp_path / "text"
    file.write_text("hello")
    done = execute(str(file))
    assert done.returncode == 126
    assert "cannot be run (Permission denied)" in done.stderr


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["python", "app.py"], None),
        (["python3.12", "-I", "app.py"], "-I"),
        (["/usr/bin/python3", "-sE", "-m", "app"], "-E"),
        (["python", "-X", "dev", "-S", "app.py"], "-S"),
        (["python", "-Xdev", "-W", "error", "-u", "app.py", "-I"], None),
        (["python", "-c", "print()", "-I"], None),
        (["python", "-mapp", "-E"], None),
        (["python", "--version"], None),
        (["node", "-I"], None),
        ([], None),
    ],
)
def test_isolating_flags_of_python_are_seen(command: list[str], flag: str | None) -> None:
    assert isolating_flag(command) == flag


def test_isolated_python_is_refused_with_the_shim_and_led_by_connect(execute: Execute) -> None:
    source = "import httpx; print(httpx.get('https://fal.run/x').json()['headers']['host'])"
    done = execute(sys.executable, "-I", "-c", source)
    assert done.returncode == 64
    assert "--method connect" in done.stderr
    done = execute(sys.executable, "-I", "-c", source, method="connect")
    assert (done.stdout, done.returncode) == ("fal.run\n", 0), done.stderr


def test_listener_of_connect_ends_with_the_program(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str], eventually: Callable[..., None]
) -> None:
    process = subprocess.Popen(
        impasto_exec("sh", "-c", "echo $HTTPS_PROXY; read line", method="connect"),
        env=clean,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        port = int(process.stdout.readline().decode().rpartition(":")[2])
        assert _listening(port)
        process.stdin.write(b"\n")
    assert process.wait(timeout=60) == 0
    eventually(lambda: not _listening(port))


def test_folder_named_impasto_where_the_program_starts_is_no_trap(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "impasto").mkdir()
    (tmp_path / "impasto" / "__init__.py").write_text("raise SystemExit('wrong package')")
    source = "import httpx; print(httpx.get('https://queue.fal.run/x').json()['headers']['host'])"
    line = impasto_exec(sys.executable, "-P", "-c", source, method="connect")
    line[1:1] = ["-P"]
    done = subprocess.run(line, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("queue.fal.run\n", 0), done.stderr


def test_six_programs_at_a_time(impasto_exec: Callable[..., list[str]], clean: dict[str, str], tmp_path: Path) -> None:
    """Six at once on a data folder that has no authority yet: one authority, six listeners, six answers."""
    line = impasto_exec("curl", "-s", "--show-error", "https://queue.fal.run/x", method="connect")
    line[line.index("--data") + 1] = str(tmp_path / "fresh")
    running = [
        subprocess.Popen(line, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert json.loads(out)["headers"]["host"] == "queue.fal.run"
    assert len(list((tmp_path / "fresh" / "tls").glob("authority.pem"))) == 1


def test_environment_is_otherwise_the_programs(execute: Execute) -> None:
    done = execute(
        sys.executable, "-c", "import os, json; print(json.dumps(dict(os.environ)))", variables={"MARK": "kept"}
    )
    seen = json.loads(done.stdout)
    assert seen["MARK"] == "kept"
    assert seen["PATH"] == os.environ["PATH"]
    assert not [name for name in seen if name.startswith("IMPASTO_")]


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
