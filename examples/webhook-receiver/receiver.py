"""Receives webhooks, checks their signatures the way fal documents it (PyNaCl), prints one JSON line for each.

    pip install pynacl
    python receiver.py --port 9000 --jwks http://127.0.0.1:8000/.well-known/jwks.json

The same code accepts fal's own webhooks: only the address of the key set differs.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

KEEP_KEYS = 24 * 3600  # seconds; fal's advice
TOLERANCE = 300  # seconds between the sender's clock and ours
MAX_BODY = 64 * 1024 * 1024


class Keys:
    """The public keys of a key set, fetched once a day."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[bytes] = []
        self.fetched_at = 0.0

    def all(self) -> list[bytes]:
        if not self.keys or time.time() - self.fetched_at > KEEP_KEYS:
            with urllib.request.urlopen(self.url, timeout=10) as answer:
                items = json.load(answer)["keys"]
            self.keys = [base64.urlsafe_b64decode(item["x"] + "=" * (-len(item["x"]) % 4)) for item in items]
            self.fetched_at = time.time()
        return self.keys


def is_genuine(headers, body: bytes, keys: Keys) -> bool:
    """Whether one of the keys signed this body, for this request, within the last five minutes."""
    names = ("Request-Id", "User-Id", "Timestamp", "Signature")
    values = [headers.get(f"X-Fal-Webhook-{name}") for name in names]
    if not all(values):
        return False
    request_id, user_id, timestamp, signature = values
    try:
        if abs(time.time() - int(timestamp)) > TOLERANCE:
            return False
        signed = bytes.fromhex(signature)
    except ValueError:
        return False
    message = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode()
    for key in keys.all():
        try:
            VerifyKey(key).verify(message, signed)
            return True
        except (BadSignatureError, ValueError):
            continue
    return False


class Receiver(BaseHTTPRequestHandler):
    keys: Keys
    seen: set[str] = set()  # noqa: RUF012 - a webhook may come twice; a real program keeps this in its database

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = self.rfile.read(min(length, MAX_BODY))
        if not is_genuine(self.headers, body, self.keys):
            self.answer(401)
            return
        webhook = json.loads(body)
        if webhook["request_id"] not in self.seen:
            self.seen.add(webhook["request_id"])
            print(json.dumps(webhook), flush=True)
        self.answer(200)  # anything but 2xx: it comes again

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--jwks", default="http://127.0.0.1:8000/.well-known/jwks.json")
    options = parser.parse_args()
    Receiver.keys = Keys(options.jwks)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
