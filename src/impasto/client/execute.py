"""`impasto exec -- COMMAND…`: run a program written for fal against an impasto server, unchanged.

The process becomes the program (exec): its terminal, pipes, signals, process id and exit status are its own, as if it
had been started alone. With method `connect` a small listener is started first, which ends when the program does.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from impasto import quiet
from impasto.client.environment import FileUrls, connect_environment, environment, upstream_proxy
from impasto.client.hosts import server_url
from impasto.errors import ConfigError
from impasto.plain import printable

Method = Literal["shim", "connect"]

EX_USAGE = 64
EX_UNAVAILABLE = 69
NOT_EXECUTABLE = 126
NOT_FOUND = 127
PROBE_SECONDS = 5.0
LISTENER_SECONDS = 20.0


def run(
    command: Sequence[str],
    *,
    base_url: str,
    method: Method = "shim",
    data: Path = Path("impasto-data"),
    inherited: Mapping[str, str] | None = None,
    file_urls: FileUrls | None = None,
) -> int:
    """Becomes `command`, its calls to fal led to `base_url`. Returns only when that fails: the exit status to end with.

    69: no server answers; 64: this way of starting Python keeps the shim out; 126, 127: the command cannot be run, as
    in a shell. `data`: folder for the certificates of method `connect`. `inherited`: the environment to start from
    (default: this process's). `file_urls`: under the shim, on whose host answers name files. Raises `ConfigError` for a
    bad URL or when the listener does not start.
    """
    inherited = quiet.users_own(os.environ if inherited is None else inherited)
    if problem := probe(base_url):
        return _complain(problem, EX_UNAVAILABLE)
    if method == "shim":
        if flag := isolating_flag(command):
            text = f"Python's {flag} keeps the shim out: requests would go to fal. Drop it or use --method connect."
            return _complain(text, EX_USAGE)
        variables = environment(base_url, inherited=inherited, file_urls=file_urls)
    else:
        variables = _listen(base_url, data=data, inherited=inherited)
    return become(command, {**inherited, **variables})


def probe(base_url: str) -> str | None:
    """Whether an impasto server answers at `base_url`: None, or the sentence that says what is wrong and what to do."""
    url = server_url(base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    remedy = "start one with `impasto serve`, or name another with --url"
    try:
        connection = kind(url.hostname or "", url.port, timeout=PROBE_SECONDS)
        try:
            connection.request("GET", f"{url.path.rstrip('/')}/healthz")
            answer = connection.getresponse()
            body = answer.read(4096)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no server at {base_url} ({error}): {remedy}."
    if answer.status == 200 and "version" in _object(body):
        return None
    return f"what answers at {base_url} is not an impasto server (GET /healthz: {answer.status}): {remedy}."


def isolating_flag(command: Sequence[str]) -> str | None:
    """The option among Python's -I, -E and -S that `command` carries, which keep `sitecustomize` from loading."""
    if not command or not re.fullmatch(r"(python|pypy)[0-9.]*(\.exe)?", os.path.basename(command[0])):
        return None
    arguments = iter(command[1:])
    for argument in arguments:
        if not argument.startswith("-") or argument.startswith("--") or argument == "-":
            return None
        for letter in argument[1:]:
            if letter in "IES":
                return f"-{letter}"
            if letter in "cm":
                return None
            if letter in "WX":
                if argument.endswith(letter):
                    next(arguments, None)
                break
    return None


def become(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Replaces this process by `command`. Returns the shell's 126 or 127 when it cannot be run."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Python ignores these two for itself; ignored they would stay in the program, and `| head` would not end it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(command[0], list(command), dict(variables))
    except FileNotFoundError:
        return _complain(f"{command[0]}: command not found.", NOT_FOUND)
    except OSError as error:
        return _complain(f"{command[0]}: cannot be run ({error.strerror}).", NOT_EXECUTABLE)


def _listen(base_url: str, *, data: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Starts the listener of method `connect` for as long as this process, or the program it becomes, lives."""
    folder = data.absolute() / "tls"
    from impasto.client import ca  # costs the shim's start otherwise

    try:
        authority = ca.ensure(folder)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}). Name another folder with --data.") from None
    arguments = ["--url", base_url, "--tls", str(folder), "--connect-port", "0", "--tls-port", "0"]
    arguments += ["--pass-through", "--detach-for", str(os.getpid())]
    if upstream := upstream_proxy(inherited):
        arguments += ["--upstream", upstream]
    try:
        started = _started(arguments)
    except subprocess.TimeoutExpired:
        raise ConfigError(f"the listener of method connect was not ready after {LISTENER_SECONDS:.0f} s.") from None
    if started.returncode != 0:
        raise ConfigError("the listener of method connect did not start; its message is above.")
    ports = json.loads(started.stdout)
    return connect_environment(
        proxy=ports["proxy"], tls_address=ports["tls_address"], authority=authority, inherited=inherited
    )


def _started(arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        # -P: a folder called impasto where the program is started is not this package.
        [sys.executable, "-P", "-m", "impasto.client", "listen", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=LISTENER_SECONDS,
        check=False,
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def _complain(text: str, status: int) -> int:
    print(f"impasto: {printable(text)}", file=sys.stderr)  # noqa: T201 - the command's own message
    return status
