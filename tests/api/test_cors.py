"""Browsers: preflights are echoed, every answer may be read, the switch turns it off."""

import pytest

APP = "/fal-ai/flux-pro"


@pytest.mark.parametrize(
    "path", [APP, "/queue" + APP, "/api/fal/proxy", "/files/b/x/y.png", "/storage/upload/initiate", "/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_preflight_allows_what_it_asks_for(client, path: str, method: str) -> None:
    asked = "authorization,content-type,x-fal-target-url,x-fal-queue-priority,x-fal-anything"
    answer = await client.options(
        path,
        headers={
            "Origin": "https://app.example.org",
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": asked,
        },
    )
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == asked
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert "access-control-allow-credentials" not in answer.headers


async def test_every_answer_may_be_read_errors_included(client, keyed) -> None:
    async with keyed[0].client() as nobody:
        answers = [
            await client.get("/healthz"),
            await client.post(APP, json={}),
            await client.get("/nothing/here"),
            await client.get("/healthz", headers={"Host": "a b"}),
            await nobody.post(APP, json={}),
        ]
    for answer in answers:
        assert answer.headers.get_list("access-control-allow-origin") == ["*"]
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert set(exposed) >= {
            "x-fal-request-id",
            "x-fal-error-type",
            "x-fal-retryable",
            "x-fal-request-timeout-type",
            "x-fal-billable-units",
            "etag",
        }


async def test_cors_can_be_turned_off(build) -> None:
    server = await build(cors=False)
    async with server.client() as client:
        asked = await client.options(APP, headers={"Origin": "https://x", "Access-Control-Request-Method": "POST"})
        assert asked.status_code == 405
        for answer in (asked, await client.get("/healthz")):
            assert not [name for name in answer.headers if name.startswith("access-control")]
