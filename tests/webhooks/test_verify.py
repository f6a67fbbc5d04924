"""The helper for receivers: genuine webhooks pass, anything that was touched does not (S14)."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from impasto.webhooks.signature import jwks, signed_headers
from impasto.webhooks.verify import InvalidSignature, Verifier, keys_of, verify

NOW = 1_800_000_000
BODY = b'{"request_id":"r","status":"OK"}'
KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def headers(key: Ed25519PrivateKey = KEY, **changes) -> dict[str, str]:
    values = {"request_id": "r", "user_id": "u", "timestamp": NOW, "body": BODY}
    return signed_headers(private=key.private_bytes_raw(), **(values | changes))


def check(given: dict[str, str], body: bytes = BODY, keys=None, now: float = NOW) -> None:
    verify(given, body, [public(KEY)] if keys is None else keys, now=lambda: now)


def test_a_genuine_one_passes_whatever_the_case_of_the_headers_and_the_order_of_keys():
    check(headers())
    check({name.upper(): value for name, value in headers().items()})
    check({name.lower(): value for name, value in headers().items()}, keys=(public(OTHER), b"short", public(KEY)))


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_clock_may_be_five_minutes_off(seconds):
    check(headers(), now=NOW + seconds)


@pytest.mark.parametrize("name", ["Request-Id", "User-Id", "Timestamp", "Signature"])
def test_a_header_that_is_missing_or_changed_is_refused(name):
    full = headers()
    name = f"X-Fal-Webhook-{name}"
    with pytest.raises(InvalidSignature, match=f"(?i){name}"):
        check({key: value for key, value in full.items() if key != name})
    changed = str(NOW + 1) if name.endswith("Timestamp") else "0" + full[name][1:] + "0"
    with pytest.raises(InvalidSignature):
        check(full | {name: changed})


@pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], b"", BODY.replace(b"OK", b"KO")])
def test_another_body_is_refused(body):
    with pytest.raises(InvalidSignature, match="No published key"):
        check(headers(), body)


@pytest.mark.parametrize("timestamp", ["", "soon", "1e9", "-1", "١٢٣", "9" * 13, str(NOW - 301), str(NOW + 301)])
def test_an_old_or_senseless_time_is_refused(timestamp):
    with pytest.raises(InvalidSignature, match="Timestamp"):
        check(headers() | {"X-Fal-Webhook-Timestamp": timestamp})


@pytest.mark.parametrize("signature", ["zz", "", "00", "00" * 64, "00" * 65])
def test_a_senseless_signature_is_refused(signature):
    with pytest.raises(InvalidSignature):
        check(headers() | {"X-Fal-Webhook-Signature": signature})


def test_parts_cannot_be_moved_from_one_line_to_the_next():
    """The signed lines are joined by newlines, so none may be inside of one; HTTP headers have none."""
    given = headers(request_id="a", user_id="b")
    with pytest.raises(InvalidSignature):
        check(given | {"X-Fal-Webhook-Request-Id": "ab", "X-Fal-Webhook-User-Id": ""})


def test_a_key_that_is_not_published_is_refused():
    with pytest.raises(InvalidSignature, match="No published key"):
        check(headers(OTHER))
    with pytest.raises(InvalidSignature, match="No published key"):
        check(headers(), keys=())


def test_foreign_keys_of_a_key_set_are_passed_over():
    ours = jwks([("a", public(KEY)), ("b", public(OTHER))])
    rsa = {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "c"}
    broken = {"kty": "OKP", "crv": "Ed25519", "kid": "d"}
    assert keys_of({"keys": [rsa, broken, *ours["keys"]]}) == [public(KEY), public(OTHER)]
    assert ours["keys"][0].keys() == {"kty", "crv", "x", "kid"}
    assert "=" not in ours["keys"][0]["x"]


class KeyServer:
    def __init__(self) -> None:
        self.keys = [public(KEY)]
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                body = json.dumps(jwks((str(n), key) for n, key in enumerate(outer.keys))).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/jwks.json"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()


@pytest.fixture
def key_server():
    made = KeyServer()
    yield made
    made.server.shutdown()
    made.thread.join()
    made.server.server_close()


async def test_keys_are_fetched_once_and_a_stranger_makes_no_load(key_server):
    now = int(time.time())
    verifier = Verifier(key_server.url)
    for _ in range(3):
        await asyncio.to_thread(verifier.verify, headers(timestamp=now), BODY)
    for _ in range(3):
        with pytest.raises(InvalidSignature):
            await asyncio.to_thread(verifier.verify, headers(OTHER, timestamp=now), BODY)
    assert key_server.asked == 1


async def test_keys_are_fetched_again_for_an_unknown_signer_after_a_while(key_server):
    now = int(time.time())
    verifier = Verifier(key_server.url)
    verifier.verify(headers(timestamp=now), BODY)
    key_server.keys = [public(OTHER)]
    verifier._fetched_at -= 61
    verifier.verify(headers(OTHER, timestamp=now), BODY)
    assert key_server.asked == 2
