"""A network namespace of one's own that records who asks for what: `unshare --net --mount python sealed.py SPEC`.

Run as a program it makes every address reachable over loopback, answers every DNS question with an address outside,
runs the commands of SPEC (a JSON file) there one after the other, and prints what was looked up and connected to. It
asks for one name and one address itself first, so that a recorder that records nothing is noticed.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

OUTSIDE, OWN = "203.0.113.9", "198.51.100.1"
PROBE_NAME, PROBE_ADDRESS = "probe.example", "192.0.2.7"
SIOCADDRT, SIOCSIFFLAGS, SIOCSIFADDR = 0x890B, 0x8914, 0x8916
UP, ROUTE_UP = 0x1 | 0x8 | 0x40, 0x1
DNS = 53


def address(text: str) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def open_roads() -> None:
    """Loopback is up, has a second address, and every packet that leaves goes there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", UP))
        fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s8x", b"lo:0", address(OWN)))
        device = ctypes.create_string_buffer(b"lo")
        route = struct.pack(
            "Q16s16s16sHh4xQBB3hh6xQQQH6x",
            *(0, address("0.0.0.0"), address("0.0.0.0"), address("0.0.0.0"), ROUTE_UP, 0, 0, 0, 0, 0, 0, 0, 0),
            *(ctypes.addressof(device), 0, 0, 0),
        )
        fcntl.ioctl(control, SIOCADDRT, route)
    resolver = Path(os.environ["HOME"]).with_name("resolv.conf")
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)


class Recorder:
    """Names that were looked up, and addresses outside that a packet went to."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.packets: set[str] = set()
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind(("127.0.0.1", DNS))
        self._wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        for task in (self._answer, self._watch):
            threading.Thread(target=task, daemon=True).start()

    def _answer(self) -> None:
        while True:
            question, sender = self._dns.recvfrom(4096)
            labels, at = [], 12
            while (length := question[at]) != 0:
                labels.append(question[at + 1 : at + 1 + length].decode("latin1"))
                at += 1 + length
            self.names.add(".".join(labels))
            asked = question[12 : at + 5]
            is_a = asked[-4:-2] == b"\0\1"
            record = b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 60, 4, socket.inet_aton(OUTSIDE)) if is_a else b""
            head = question[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, int(is_a), 0, 0)
            self._dns.sendto(head + asked + record, sender)

    def _watch(self) -> None:
        while True:
            packet, (_, protocol, *_) = self._wire.recvfrom(65536)
            if protocol == 0x0800 and len(packet) >= 24:
                to, body = packet[16:20], packet[(packet[0] & 15) * 4 :]
                if to[0] != 127 and to != socket.inet_aton(OWN):
                    self.packets.add(f"{socket.inet_ntoa(to)}:{struct.unpack('>H', body[2:4])[0]}")
            elif protocol == 0x86DD and packet[24:40] != b"\0" * 15 + b"\1" and packet[24] != 0xFF:
                self.packets.add(f"[{socket.inet_ntop(socket.AF_INET6, packet[24:40])}]")


def probe() -> None:
    socket.getaddrinfo(PROBE_NAME, 443, socket.AF_INET)
    with socket.socket() as outward:
        outward.settimeout(0.2)
        outward.connect_ex((PROBE_ADDRESS, 443))


def main() -> None:
    open_roads()
    recorder = Recorder()
    probe()
    ended = []
    for command in json.loads(Path(sys.argv[1]).read_text()):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ended.append([done.returncode, done.stdout[-4000:], done.stderr[-4000:]])
    print(json.dumps({"names": sorted(recorder.names), "packets": sorted(recorder.packets), "ended": ended}))
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
