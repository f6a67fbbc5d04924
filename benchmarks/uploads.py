"""Measures uploads by every way: how fast, and how much memory the server takes meanwhile.

    python benchmarks/uploads.py [--mib 300]

Starts `impasto serve` with the test pictures. Prints a table and writes benchmarks/results/uploads.json. The peer in
the same run, on the same disk, is a plain copy: the same bytes written to a file in 1 MiB pieces and synced.
"""

import argparse
import http.client
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

MIB = 1024 * 1024
PART = os.urandom(10 * MIB)  # fal's clients cut large files so


class Server:
    def __init__(self, folder: Path, mib: int) -> None:
        variables = {"IMPASTO_MODEL_PIPELINE": "fake", "IMPASTO_SERVER_MAX_UPLOAD_MB": str(mib)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", str(folder)],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = next(found[1] for line in self.process.stdout if (found := re.search(r"serving (http://\S+)", line)))
        self.proc = Path(f"/proc/{self.process.pid}")

    def call(self, method: str, target: str, body: object = None, **headers: str) -> tuple[Message, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        connection.request(method, target.removeprefix(self.url), body=body, headers=headers)  # type: ignore[arg-type]
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        assert answer.status == 200, data
        return answer.headers, data

    def memory(self, name: str) -> float:
        """MiB of the server's own process."""
        line = next(line for line in (self.proc / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) / 1024


def pieces(mib: int) -> Iterator[bytes]:
    for _ in range(mib // 10):
        yield PART


def one_post(server: Server, mib: int) -> None:
    server.call("POST", "/files/upload", pieces(mib), **{"Content-Length": str(mib * MIB)})


def signed_put(server: Server, mib: int) -> None:
    begun = json.loads(server.call("POST", "/storage/upload/initiate", b"{}")[1])
    server.call("PUT", begun["upload_url"], pieces(mib), **{"Content-Length": str(mib * MIB)})


def parts(server: Server, mib: int) -> None:
    begun = json.loads(server.call("POST", "/files/upload/multipart")[1])
    base, listed = f"{begun['access_url']}/multipart/{begun['uploadId']}", []
    for number in range(1, mib // 10 + 1):
        headers, _ = server.call("PUT", f"{base}/{number}", PART)
        listed.append({"partNumber": number, "etag": headers["ETag"]})
    server.call("POST", f"{base}/complete", json.dumps({"parts": listed}).encode())


def plain_copy(folder: Path, mib: int) -> float:
    """The peer: MiB/s."""
    start = time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for piece in pieces(mib):
            for at in range(0, len(piece), MIB):
                file.write(piece[at : at + MIB])
        file.flush()
        os.fsync(file.fileno())
    return mib / (time.perf_counter() - start)


def measured(server: Server, upload: Callable[[Server, int], None], *, mib: int, peer: float) -> dict[str, float]:
    before = server.memory("VmRSS")
    (server.proc / "clear_refs").write_text("5")  # the peak is measured from here on
    start = time.perf_counter()
    upload(server, mib)
    rate = mib / (time.perf_counter() - start)
    return {
        "mib_per_second": round(rate),
        "of_the_copy": round(rate / peer, 2),
        "server_grew_mib": round(server.memory("VmHWM") - before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=300, help="size of one upload, a multiple of 10")
    mib: int = parser.parse_args().mib
    ways = {"POST /files/upload": one_post, "signed PUT": signed_put, "10 MiB parts, joined": parts}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name) / "data", mib)
        try:
            peer = plain_copy(Path(name), mib)
            rows = {way: measured(server, upload, mib=mib, peer=peer) for way, upload in ways.items()}
        finally:
            server.process.send_signal(signal.SIGINT)
            server.process.wait()
    print(f"one upload of {mib} MiB; a plain synced copy: {peer:.0f} MiB/s")
    for way, row in rows.items():
        rate, share, grown = row.values()
        print(f"  {way:22} {rate:>5} MiB/s  {share:>5} of the copy  server grew {grown} MiB")
    result = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f} at the start",
        "command": f"python benchmarks/uploads.py --mib {mib}",
        "plain_copy_mib_per_second": round(peer),
        "ways": rows,
    }
    path = Path(__file__).parent / "results" / "uploads.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
