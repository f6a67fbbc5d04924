"""Large uploads against a server process: bounded in memory by every way, nothing left of a killed one."""

import hashlib
import http.client
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MIB = 1024 * 1024
SIZE = 300  # MiB of one upload
GROWTH = 64  # MiB that the server may grow meanwhile
PART = bytes(range(256)) * (10 * MIB // 256)  # 10 MiB, as fal's clients cut them


class Memory:
    """Of the server's own process, not of its runner."""

    def __init__(self, pid: int) -> None:
        self.folder = Path(f"/proc/{pid}")
        self.begin = self._read("VmRSS")
        (self.folder / "clear_refs").write_text("5")  # the peak is measured from here on

    def _read(self, name: str) -> int:
        line = next(line for line in (self.folder / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])

    @property
    def grown(self) -> float:
        """MiB between the beginning and the peak since."""
        return (self._read("VmHWM") - self.begin) / 1024


def call(url: str, method: str, target: str, body: Any = None, **headers: str) -> tuple[dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    path = target.removeprefix(url)
    connection.request(method, path, body=body, headers={"Authorization": "Key local:local", **headers})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status == 200, data
    return {name.lower(): value for name, value in answer.getheaders()}, data


def pieces() -> Iterator[bytes]:
    for _ in range(SIZE // 10):
        yield PART


def check_download(url: str, file_url: str) -> None:
    expected, found, size = hashlib.sha256(), hashlib.sha256(), 0
    for piece in pieces():
        expected.update(piece)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
    connection.request("GET", file_url.removeprefix(url))
    answer = connection.getresponse()
    while data := answer.read(MIB):
        found.update(data)
        size += len(data)
    connection.close()
    assert (size, found.digest()) == (SIZE * MIB, expected.digest())


def test_an_upload_of_300_mb_takes_a_few_mb_of_memory_by_every_way(start: Callable[..., Any]) -> None:
    server = start(IMPASTO_SERVER_MAX_UPLOAD_MB=str(SIZE))
    memory, length = Memory(server.process.pid), {"Content-Length": str(SIZE * MIB)}

    _, body = call(server.url, "POST", "/files/upload", pieces(), **length)
    check_download(server.url, json.loads(body)["access_url"])
    assert memory.grown < GROWTH, "one POST"

    begun = json.loads(call(server.url, "POST", "/storage/upload/initiate", b"{}")[1])
    call(server.url, "PUT", begun["upload_url"], pieces(), **length)
    assert memory.grown < GROWTH, "one signed PUT"

    begun = json.loads(call(server.url, "POST", "/files/upload/multipart")[1])
    base, listed = f"{begun['access_url']}/multipart/{begun['uploadId']}", []
    for number in range(1, SIZE // 10 + 1):
        headers, _ = call(server.url, "PUT", f"{base}/{number}", PART)
        listed.append({"partNumber": number, "etag": headers["etag"]})
    call(server.url, "POST", f"{base}/complete", json.dumps({"parts": listed}).encode())
    check_download(server.url, begun["access_url"])
    assert memory.grown < GROWTH, "parts, joined"


def test_what_a_killed_server_had_half_written_is_gone_after_its_restart(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    server = start()
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    connection.putrequest("POST", "/files/upload")
    connection.putheader("Content-Length", str(50 * MIB))
    connection.endheaders()
    drafts = tmp_path / "data" / "files" / "tmp"
    while not any(path.stat().st_size for path in drafts.iterdir()):
        connection.send(bytes(MIB))
    server.process.kill()
    server.process.wait()
    connection.close()
    assert list(drafts.iterdir())
    start()
    assert list(drafts.iterdir()) == []
