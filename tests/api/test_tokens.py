"""Short-lived tokens: both shapes of asking, what they open, and everything that must not pass for one."""

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from impasto import telemetry
from impasto.api.token_claims import _key, issue

RUN = "/fal-ai/flux-pro"
BAD = {"num_images": 0}  # refused after the door: 422 proves that the door opened


async def open_status(client: Any, token: str, path: str = RUN) -> tuple[int, Any]:
    answer = await client.post(path, params={"fal_jwt_token": token}, json=BAD)
    return answer.status_code, answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokens/", {"allowed_apps": ["flux-pro"], "token_expiration": 120}),
        ("/tokens/realtime", {"allowed_apps": ["fal-ai/flux-pro"], "duration": 120}),
        ("/tokens", {"allowed_apps": ["fal-ai/flux-pro/v1.1", "other"]}),
    ],
)
async def test_both_ways_of_asking_give_a_bare_token_that_runs_the_app(keyed, path: str, body: Any) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        token = answer.json()
        assert isinstance(token, str)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 120
    assert claims["sub"] == alice.partition(":")[0]
    async with server.client() as nobody:
        for opened in (RUN, RUN + "/v1.1"):
            assert (await open_status(nobody, token, opened))[0] == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "allowed_apps"),
        ({"allowed_apps": "flux-pro"}, "allowed_apps"),
        ({"allowed_apps": []}, "allowed_apps"),
        ({"allowed_apps": [7]}, "allowed_apps"),
        ({"allowed_apps": ["a"], "token_expiration": 0}, "token_expiration"),
        ({"allowed_apps": ["a"], "token_expiration": True}, "token_expiration"),
        ({"allowed_apps": ["a"], "token_expiration": 1e400}, "token_expiration"),
        ({"allowed_apps": ["a"], "duration": 3601}, "duration"),
        ({"allowed_apps": ["a"], "duration": "120"}, "duration"),
    ],
)
async def test_a_bad_request_names_the_field(client, body: Any, field: str) -> None:
    answer = await client.post("/tokens/", content=json.dumps(body).replace("Infinity", "1e308"))
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", field]


async def test_tokens_are_made_with_a_key_only(keyed) -> None:
    server, alice, _ = keyed
    body = {"allowed_apps": ["flux-pro"]}
    async with server.client(key=alice) as client:
        token = (await client.post("/tokens/", json=body)).json()
    async with server.client() as nobody:
        assert (await nobody.post("/tokens/", json=body)).status_code == 401
        assert (await nobody.post("/tokens/", params={"fal_jwt_token": token}, json=body)).status_code == 401
        assert (await nobody.post("/queue" + RUN, params={"fal_jwt_token": token}, json=BAD)).status_code == 401


async def test_what_is_no_living_token_for_the_app_is_401(keyed) -> None:
    server, alice, _ = keyed
    secret = (server.settings.data / "upload.key").read_bytes()
    good = issue(key_id=alice.partition(":")[0], apps=["flux-pro"], seconds=60, secret=secret)
    claims = jwt.decode(good, options={"verify_signature": False})
    key, now = _key(secret), int(time.time())
    bad = {
        "expired": jwt.encode({**claims, "exp": now - 1}, key, algorithm="HS256"),
        "not made for": jwt.encode({**claims, "aud": ["other"]}, key, algorithm="HS256"),
        "garbage is not one": "garbage",
        "unsigned is not one": jwt.encode(claims, None, algorithm="none"),
        "other algorithm is not one": jwt.encode(claims, key * 2, algorithm="HS512"),
        "asymmetric is not one": jwt.encode(claims, ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA"),
        "relabelled is not one": relabelled(good, "EdDSA"),
        "alg missing is not one": relabelled(good, None),
        "alg none is not one": relabelled(good, "none"),
        "tampered is not one": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "no id is not one": jwt.encode({k: v for k, v in claims.items() if k != "jti"}, key, algorithm="HS256"),
        "future is not one": jwt.encode({**claims, "iat": now + 3600}, key, algorithm="HS256"),
        "raw secret is not one": jwt.encode(claims, secret, algorithm="HS256"),
        "other issuer is not one": jwt.encode({**claims, "iss": "fal"}, key, algorithm="HS256"),
        "endless is not one": jwt.encode({k: v for k, v in claims.items() if k != "exp"}, key, algorithm="HS256"),
        "no key is no longer valid": jwt.encode({**claims, "sub": ""}, key, algorithm="HS256"),
        "unknown key is no longer valid": jwt.encode({**claims, "sub": "x"}, key, algorithm="HS256"),
    }
    async with server.client() as nobody:
        assert (await open_status(nobody, good))[0] == 422
        for name, token in bad.items():
            status, detail = await open_status(nobody, token)
            assert status == 401, name
            assert " ".join(name.split()[-3:]) in detail or name.split(" is ")[-1] in detail, (name, detail)
        await server.store.revoke_key(alice.partition(":")[0])
        assert (await open_status(nobody, good))[0] == 401


def relabelled(token: str, algorithm: str | None) -> str:
    """The same claims and signature under a header that names another algorithm."""
    header = {"typ": "JWT"} | ({} if algorithm is None else {"alg": algorithm})
    text = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    return ".".join([text, *token.split(".")[1:]])


async def test_a_token_runs_and_streams_its_app_and_nothing_else(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        token = (await client.post("/tokens/", json={"allowed_apps": ["flux-pro"]})).json()
    async with server.client() as nobody:
        assert (await open_status(nobody, token, RUN + "/stream"))[0] == 422
        assert (await open_status(nobody, token, "/fal-ai/flux/dev/stream"))[0] == 401
        for path in ("/openai/v1/images/generations", "/storage/auth/token"):
            assert (await nobody.post(path, params={"fal_jwt_token": token}, json=BAD)).status_code == 401


def test_a_token_in_a_url_is_never_logged() -> None:
    token = issue(key_id="k", apps=["a"], seconds=60, secret=b"s" * 32)
    line = telemetry.redact(f'127.0.0.1 - "WebSocket /fal-ai/flux-pro/realtime?fal_jwt_token={token}&max_buffering=2"')
    assert token not in line
    assert token.rpartition(".")[2] not in line
    assert "max_buffering=2" in line
