"""`python -m impasto.client listen | env`: the parts of `impasto exec`, by hand.

listen   the HTTPS proxy and the TLS side of `impasto.client.connect`, until interrupted
env      the variables of method shim, as lines for a shell's `eval`
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from impasto.client import ca
from impasto.client.connect import Listener, Route
from impasto.client.environment import environment
from impasto.errors import ImpastoError
from impasto.plain import printable

POLL_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 when a port is taken or a folder cannot be written; 2 for a bad option."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "env":
            for name, value in environment(options.url, inherited=os.environ).items():
                _say(f"export {name}={shlex.quote(value)}")
            return 0
        return asyncio.run(_listen(options)) if options.detach_for is None else _detached(options)
    except (ImpastoError, OSError) as error:
        print(f"impasto: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m impasto.client", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("listen", "env"):
        command = commands.add_parser(name)
        command.add_argument("--url", default="http://127.0.0.1:8000", help="the impasto server")
        if name == "listen":
            command.add_argument(
                "--tls", type=Path, default=Path("impasto-data/tls"), help="folder of the certificates"
            )
            command.add_argument("--host", default="127.0.0.1", help="address to listen on")
            command.add_argument(
                "--connect-port", type=int, default=3128, help="port of the HTTPS proxy; 0: a free one"
            )
            command.add_argument("--tls-port", type=int, default=8443, help="port of the TLS side; 0: a free one")
            command.add_argument("--pass-through", action="store_true", help="reach hosts other than fal's too")
            command.add_argument("--upstream", help="HTTP proxy by way of which those are reached")
            command.add_argument("--detach-for", type=int, metavar="PID", help="go to the background and end with PID")
    return parser


async def _listen(options: argparse.Namespace) -> int:
    """In the foreground, until SIGINT or SIGTERM."""
    authority = ca.ensure(options.tls)
    listener = await _started(options, authority)
    _say(f"impasto: HTTPS_PROXY=http://{options.host}:{listener.connect_port} leads fal's hosts to {options.url}")
    _say(f"impasto: TLS for fal's hosts on {options.host}:{listener.tls_port}")
    _say(f"impasto: trust {authority.certificate.absolute()}")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await listener.stop()
    return 0


def _detached(options: argparse.Namespace) -> int:
    """Prints the ports as JSON once they are open, then stays in the background until `options.detach_for` ends.

    It forks away so that the program that `exec` becomes has no child that it does not know of.
    """
    reading, writing = os.pipe()
    if os.fork() != 0:
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            line = pipe.read()
        _say(line)
        return 0 if line else 1
    os.close(reading)
    os.setsid()
    options.tls = options.tls.absolute()
    os.chdir("/")  # the folder that the program was started in is not ours to hold
    return asyncio.run(_serve_for(options, writing))


async def _serve_for(options: argparse.Namespace, writing: int) -> int:
    listener = await _started(options, ca.ensure(options.tls))
    address = {
        "proxy": f"http://{options.host}:{listener.connect_port}",
        "tls_address": f"{options.host}:{listener.tls_port}",
    }
    # From here on nobody may wait for this process: neither on the pipe nor on the standard streams.
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.write(writing, json.dumps(address).encode())
    os.close(writing)
    await _ended(options.detach_for)
    await listener.stop()
    return 0


async def _started(options: argparse.Namespace, authority: ca.Authority) -> Listener:
    route = Route(server=options.url, pass_through=options.pass_through, upstream=options.upstream)
    listener = Listener(route, authority)
    await listener.start(host=options.host, connect_port=options.connect_port, tls_port=options.tls_port)
    return listener


async def _ended(pid: int) -> None:
    """Returns when process `pid` has ended."""
    if hasattr(os, "pidfd_open"):
        ended = asyncio.Event()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel or a sandbox without it
            pass
        else:
            asyncio.get_running_loop().add_reader(descriptor, ended.set)
            await ended.wait()
            return
    while _alive(pid):  # noqa: ASYNC110 - nothing tells of another's process here
        await asyncio.sleep(POLL_SECONDS)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
