"""Who may do what: fal's words for every wrong key, and that nothing is told to strangers."""

import asyncio

import pytest

from impasto.api.auth import Access, Caller, identify
from impasto.errors import Forbidden, Unauthorized
from impasto.settings import AuthSettings, Settings

APP = "/fal-ai/flux-pro"
MALFORMED = "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."
UNKNOWN = "No user found for Key ID and Secret"
NEEDED = 'Cannot access application "fal-ai/flux-pro". Authentication is required to access this application.'


async def test_no_key_at_a_model_names_the_app_only(keyed) -> None:
    server, _, _ = keyed
    async with server.client() as client:
        for path in (APP, "/queue" + APP, APP + "/v1.1", "/queue" + APP + "/v1.1/redux", APP + "/stream"):
            answer = await client.post(path, json={"prompt": "a"})
            assert (answer.status_code, answer.json()) == (401, {"detail": NEEDED})
            assert answer.headers["x-fal-error-type"] == "auth_error"
            assert "x-fal-request-id" in answer.headers
    assert server.store.queued() == 0


async def test_auth_is_judged_before_method_path_and_body(keyed) -> None:
    server, _, _ = keyed
    async with server.client() as client:
        assert (await client.get(APP)).status_code == 401
        assert (await client.delete(APP)).status_code == 401
        assert (await client.post("/nobody/knows/this", json={})).status_code == 401
        assert (await client.post(APP, content=b"{")).status_code == 401
        assert (await client.get("/storage/auth/token")).status_code == 401


async def test_no_key_at_the_rest_host(keyed) -> None:
    server, _, _ = keyed
    async with server.client() as client:
        for path in ("/storage/auth/token", "/storage/upload/initiate", "/tokens/", "/files/upload"):
            answer = await client.post(path, json={})
            assert (answer.status_code, answer.json()) == (401, {"detail": "Authorization header is required"})


@pytest.mark.parametrize(
    "header", ["Key", "Key ", "Key abc", "Key :secret", "Key id:", "Basic YTpi", "abc", "Key a b:c"]
)
async def test_a_malformed_key(keyed, header: str) -> None:
    server, _, _ = keyed
    async with server.client() as client:
        for path in (APP, "/queue" + APP, "/storage/auth/token", "/files/upload"):
            answer = await client.post(path, json={"prompt": "a"}, headers={"Authorization": header})
            assert (answer.status_code, answer.json()) == (401, {"detail": MALFORMED})
        answer = await client.get(f"/queue{APP}/requests/x/status", headers={"Authorization": header})
        assert (answer.status_code, answer.json()) == (401, {"detail": MALFORMED})


async def test_an_unknown_wrong_or_revoked_key(keyed) -> None:
    server, alice, bob = keyed
    key_id, _, secret = alice.partition(":")
    await server.store.revoke_key(bob.partition(":")[0])
    for wrong in ("nobody:nothing", f"{key_id}:{secret[:-1]}x", f"{key_id}:{secret}x", bob):
        async with server.client(key=wrong) as client:
            for path in (APP, "/queue" + APP, "/storage/auth/token"):
                answer = await client.post(path, json={"prompt": "a"})
                assert (answer.status_code, answer.json()) == (401, {"detail": UNKNOWN})


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY", "Bearer", "Key  "])
async def test_the_scheme_is_taken_in_any_spelling(keyed, scheme: str) -> None:
    server, alice, _ = keyed
    async with server.client() as client:
        answer = await client.post("/queue" + APP, json={"prompt": "a"}, headers={"Authorization": f"{scheme} {alice}"})
    assert answer.status_code == 200


async def test_a_key_without_the_scope_is_403(keyed) -> None:
    server, _, _ = keyed
    _, narrow = await server.store.create_key(alias="narrow", scopes=["METRICS"])
    _, admin = await server.store.create_key(alias="admin", scopes=["ADMIN"])
    async with server.client(key=narrow) as client:
        answer = await client.post("/queue" + APP, json={"prompt": "a"})
        assert answer.status_code == 403
        assert "API" in answer.json()["detail"]
    async with server.client(key=admin) as client:
        assert (await client.post("/queue" + APP, json={"prompt": "a"})).status_code == 200


@pytest.mark.parametrize("header", [None, "Key a:b", "Key abc", "Bearer hf_x", "nonsense", ""])
async def test_an_open_server_takes_any_key_and_none(client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = await client.post("/queue" + APP, json={"prompt": "a"}, headers=headers)
    assert answer.status_code == 200
    status = await client.get(f"/queue{APP}/requests/{answer.json()['request_id']}/status")
    assert status.status_code == 202, "on an open server all callers are one"


async def test_what_needs_no_key(keyed) -> None:
    server, _, _ = keyed
    async with server.client() as client:
        for path in ("/", "/health", "/healthz", "/readyz", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        query = {"endpoint_id": "fal-ai/flux-pro"}
        assert (await client.get("/api/openapi/queue/openapi.json", params=query)).status_code == 200
        assert (await client.options(APP)).status_code == 204
        assert (await client.get("/files/b/00000000/none.png")).status_code == 404


async def test_no_answer_repeats_the_key(keyed) -> None:
    server, alice, _ = keyed
    key_id, _, secret = alice.partition(":")
    async with server.client(key=f"{key_id}:{secret}x") as client:
        for method, path in (("POST", APP), ("GET", f"/queue{APP}/requests/x"), ("POST", "/storage/auth/token")):
            answer = await client.request(method, path)
            assert secret not in answer.text + str(answer.headers)


async def test_identify_is_the_same_for_all_doors_with_a_good_key(keyed) -> None:
    server, alice, _ = keyed
    keys, anyone = Settings(auth=AuthSettings(mode="keys")), Settings()
    for access in (Access.MODEL, Access.REQUEST, Access.REST):
        caller = identify({"authorization": f"Key {alice}"}, store=server.store, settings=keys, access=access, path=APP)
        assert caller == Caller(alice.partition(":")[0])
    assert identify({}, store=server.store, settings=keys, access=Access.REQUEST) is None
    assert identify({}, store=server.store, settings=anyone, access=Access.MODEL) == Caller("", admin=True)
    with pytest.raises(Unauthorized, match="Authorization header is required"):
        identify({}, store=server.store, settings=keys, access=Access.REST)
    _, narrow = await server.store.create_key(alias="narrow", scopes=[])
    with pytest.raises(Forbidden):
        identify({"authorization": f"Key {narrow}"}, store=server.store, settings=keys, access=Access.REST)


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:8000", 200),
        ("http://[::1]:8000", 200),
        ("http://app.localhost", 200),
        ("https://allowed.example", 200),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("https://allowed.example.evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://[::1", 403),
    ],
)
async def test_a_server_without_keys_is_not_at_the_service_of_every_page_its_user_visits(
    build, origin: str | None, status: int
) -> None:
    server = await build(auth="auto", origins=("https://allowed.example",))
    headers = {} if origin is None else {"Origin": origin}
    async with server.client() as client:
        answer = await client.post("/queue" + APP, json={"prompt": "a"}, headers=headers)
        assert answer.status_code == status
        assert server.store.queued() == (1 if status == 200 else 0)
        if status == 403:
            assert "auth.origins" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("base", "status"),
    [
        ("http://127.0.0.1:8000", 200),
        ("http://localhost:8000", 200),
        ("http://[::1]:8000", 200),
        ("http://queue.localhost:8000", 200),
        ("https://queue.fal.run", 200),
        ("https://allowed.example", 200),
        ("http://evil.example:8000", 403),
        ("http://127.0.0.1.evil.example", 403),
        ("http://192.168.1.7:8000", 403),
    ],
)
async def test_a_name_that_a_page_had_point_here_opens_no_server_without_keys(build, base: str, status: int) -> None:
    """DNS rebinding: the page and this server then have one origin, and a browser sends none."""
    server = await build(auth="auto", origins=("https://allowed.example",))
    async with server.client(base=base) as client:
        for path in ("/v1/requests", f"/queue{APP}/requests/none/status"):
            answer = await client.get(path)
            assert (answer.status_code == 403) is (status == 403)
            if status == 403:
                assert "auth.origins" in answer.text
        assert (await client.get("/healthz")).status_code == 200


async def test_with_keys_any_page_may_call_as_on_fal(keyed) -> None:
    server, alice, _ = keyed
    async with server.client(key=alice) as client:
        answer = await client.post("/queue" + APP, json={"prompt": "a"}, headers={"Origin": "https://app.example"})
        assert answer.status_code == 200


async def test_a_revoked_keys_run_and_stream_end_at_once_and_are_drawn_no_more(keyed) -> None:
    server, alice, _ = keyed
    headers = {"Authorization": f"Key {alice}"}
    async with server.client() as client:
        run = asyncio.create_task(client.post("/fal-ai/flux-pro", json={"prompt": "a"}, headers=headers))
        stream = asyncio.create_task(client.post("/fal-ai/flux-pro/stream", json={"prompt": "b"}, headers=headers))
        queued = (await client.post("/queue/fal-ai/flux-pro", json={"prompt": "c"}, headers=headers)).json()
        path = f"/queue/fal-ai/flux-pro/requests/{queued['request_id']}/status/stream"
        watched = asyncio.create_task(client.get(path, headers=headers))
        while server.store.queued() < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert await server.store.revoke_key(alice.partition(":")[0])
        answers = await asyncio.wait_for(asyncio.gather(run, stream, watched), timeout=60)
    assert answers[0].status_code == 401
    assert "revoked" in answers[1].text
    assert "COMPLETED" not in answers[2].text
    assert server.store.queued() == 1, "what waited for an answer is cancelled"
