"""OpenAI's Images API as a side door: fields, names, errors, events; each call is one durable request."""

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from impasto.api.forms import parse
from impasto.api.openai.inputs import understand
from impasto.api.openai.names import choose
from impasto.endpoints.base import Endpoint
from impasto.endpoints.table import Endpoints
from impasto.errors import BadRequest, ModelError
from impasto.fleet.messages import Preview
from impasto.settings import OpenAISettings
from impasto.store.records import Outcome, Status

BASE = "/openai/v1"
GENERATIONS = BASE + "/images/generations"
EDITS = BASE + "/images/edits"
PROMPT = {"prompt": "a cat"}


def png(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 120, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def warned(answer: Any) -> set[tuple[str, str]]:
    return {(item["code"], item.get("field")) for item in json.loads(answer.headers.get("x-impasto-warnings", "[]"))}


async def stored_input(server: Any, answer: Any) -> dict[str, Any]:
    return server.store.input(answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (None, {"url", "b64_json", "revised_prompt"}),
        ("url", {"url", "revised_prompt"}),
        ("b64_json", {"b64_json", "revised_prompt"}),
    ],
)
async def test_a_picture_comes_in_the_form_that_was_asked_for(client, working, form, keys) -> None:
    body = PROMPT | {"n": 2, "size": "640x480"} | ({} if form is None else {"response_format": form})
    answer = await client.post(GENERATIONS, json=body)
    assert answer.status_code == 200
    said = answer.json()
    assert set(said) == {"created", "data", "background", "output_format", "size"}, "no usage: nothing counts tokens"
    assert (said["output_format"], said["size"]) == ("png", "640x480")
    assert isinstance(said["created"], int)
    assert [set(item) for item in said["data"]] == [keys, keys]
    for item in said["data"]:
        assert item["revised_prompt"] == "a cat"
        if "b64_json" in item:
            assert (decoded(item["b64_json"]).format, decoded(item["b64_json"]).size) == ("PNG", (640, 480))
        if "url" in item:
            assert (await client.get(item["url"])).headers["content-type"] == "image/png"
    assert warned(answer) == set()


async def test_it_is_one_durable_request_with_the_callers_seed(client, server, working) -> None:
    answer = await client.post(GENERATIONS, json=PROMPT | {"seed": 7, "output_format": "jpeg", "model": "flux-pro"})
    request = server.store.get(answer.headers["x-request-id"])
    assert answer.headers["x-fal-request-id"] == request.request_id
    assert (request.endpoint, request.status, request.outcome) == ("fal-ai/flux-pro", Status.COMPLETED, Outcome.OK)
    assert request.seed == 7
    result = await client.get(f"/queue/fal-ai/flux-pro/requests/{request.request_id}")
    assert result.json()["seed"] == 7


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("fal-ai/flux-pro/v1.1", "fal-ai/flux-pro/v1.1"),
        ("flux-pro", "fal-ai/flux-pro"),
        ("flux/schnell", "fal-ai/flux/schnell"),
        ("flux-schnell", "fal-ai/flux/schnell"),
        ("FLUX.1-dev", "fal-ai/flux-1/dev"),
        ("black-forest-labs/FLUX.1-schnell", "fal-ai/flux-1/schnell"),
        ("flux-1.1-pro", "fal-ai/flux-pro/v1.1"),
        ("flux-pro-1.1-ultra", "fal-ai/flux-pro/v1.1-ultra"),
    ],
)
async def test_names_of_flux_mean_endpoints(client, server, working, model: str, endpoint: str) -> None:
    answer = await client.post(GENERATIONS, json=PROMPT | {"model": model, "response_format": "url"})
    assert answer.status_code == 200
    assert server.store.get(answer.headers["x-request-id"]).endpoint == endpoint
    assert warned(answer) == set()


@pytest.mark.parametrize("model", ["gpt-image-1", "gpt-image-2.5-flare", "dall-e-3", "chatgpt-image-latest"])
async def test_openais_own_names_draw_with_the_set_endpoint_and_say_so(client, server, working, model: str) -> None:
    answer = await client.post(GENERATIONS, json=PROMPT | {"model": model, "response_format": "url"})
    assert server.store.get(answer.headers["x-request-id"]).endpoint == server.settings.openai.model
    assert warned(answer) == {("model_replaced", "model")}


async def test_what_has_no_effect_is_accepted_and_told(client, working) -> None:
    more = {
        "quality": "high", "style": "vivid", "background": "transparent", "moderation": "low", "user": "u1",
        "output_compression": 80, "nobody_knows_this": 1,
    }  # fmt: skip
    answer = await client.post(GENERATIONS, json=PROMPT | more)
    assert answer.status_code == 200
    assert warned(answer) == {("field_ignored", name) for name in more if name != "nobody_knows_this"}
    neutral = {"quality": "auto", "background": "auto", "moderation": "auto", "size": "auto", "style": None}
    assert warned(await client.post(GENERATIONS, json=PROMPT | neutral)) == set()


async def test_a_size_in_pixels_becomes_an_aspect_ratio_where_only_that_is_known(client, server, working) -> None:
    body = PROMPT | {"model": "flux-pro-v1.1-ultra", "size": "1024x1536", "response_format": "url"}
    answer = await client.post(GENERATIONS, json=body)
    assert (await stored_input(server, answer))["aspect_ratio"] == "2:3"
    assert warned(answer) == {("size_rounded", "size")}


@pytest.mark.parametrize("endpoint", Endpoints().values(), ids=Endpoints())
def test_every_endpoint_takes_a_size(endpoint: Endpoint) -> None:
    body = endpoint.example | PROMPT | {"model": endpoint.id, "size": "1024x1536"}
    wish = understand(body, Endpoints(), settings=OpenAISettings())
    told = {notice.code for notice in wish.notices if notice.field == "size"}
    if "image_size" in wish.input:
        assert (wish.input["image_size"], told) == ({"width": 1024, "height": 1536}, set())
    elif "aspect_ratio" in endpoint.Input.model_fields:
        across, down = wish.input["aspect_ratio"].split(":")
        assert (int(across) < int(down), told) == (True, {"size_rounded"})
    else:
        assert told == {"field_ignored"}


async def test_an_edit_with_kontext_takes_a_size(client, server, working) -> None:
    fields = PROMPT | {"model": "flux-pro/kontext", "size": "1536x1024", "response_format": "url"}
    answer = await client.post(EDITS, data=fields, files={"image": png()})
    assert answer.status_code == 200, answer.text
    assert (await stored_input(server, answer))["aspect_ratio"] == "3:2"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing"),
        (PROMPT | {"n": 0}, "n", "greater_than_equal"),
        (PROMPT | {"n": 5}, "n", "less_than_equal"),
        (PROMPT | {"size": "big"}, "size", "invalid_size"),
        (PROMPT | {"size": "3840x2160"}, "size", "image_too_large"),
        (PROMPT | {"size": "32x32"}, "size", "image_too_small"),
        (PROMPT | {"response_format": "png"}, "response_format", "one_of"),
        (PROMPT | {"output_format": "webp"}, "output_format", "one_of"),
        (PROMPT | {"partial_images": 4}, "partial_images", "less_than_equal"),
        (PROMPT | {"seed": 0.5}, "seed", "int_from_float"),
        (PROMPT | {"model": "flux-dev-redux"}, "image", "missing"),
        (["a list"], None, "dict_type"),
    ],
)
async def test_bad_fields_are_400_under_openais_names(client, server, body: Any, param, code: str) -> None:
    answer = await client.post(GENERATIONS, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert answer.headers["x-should-retry"] == "false"
    assert server.store.queued() == 0, "nothing was admitted"


async def test_unknown_models_methods_and_keys_in_openais_shape(client, keyed) -> None:
    answer = await client.post(GENERATIONS, json=PROMPT | {"model": "sdxl"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"
    assert (await client.get(GENERATIONS)).status_code == 405
    assert (await client.post(GENERATIONS, content=b"{")).json()["error"]["code"] == "json_invalid"
    server, alice, _ = keyed
    async with server.client() as nobody:
        for authorization in (None, "Bearer sk-abc", "Bearer a:b"):
            headers = {} if authorization is None else {"Authorization": authorization}
            answer = await nobody.post(GENERATIONS, json=PROMPT, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.json()["error"]["type"] == "invalid_request_error"
        bearer = {"Authorization": f"Bearer {alice}"}
        assert (await nobody.get(BASE + "/models", headers=bearer)).status_code == 200
        assert (await nobody.post(GENERATIONS, json={}, headers=bearer)).status_code == 400


async def test_the_pictures_are_at_v1_too(client, working) -> None:
    assert (await client.post("/v1/images/generations", json=PROMPT)).json()["data"][0]["url"]
    assert (await client.post("/v1/images/generations", json={})).json()["error"]["param"] == "prompt"
    assert (await client.post("/v1/images/edits", data={"prompt": "x"})).status_code == 415


async def test_models_are_the_endpoints(client) -> None:
    listed = (await client.get(BASE + "/models")).json()
    ids = [model["id"] for model in listed["data"]]
    assert listed["object"] == "list"
    assert ids[0] == "fal-ai/flux-pro"
    assert {model["object"] for model in listed["data"]} == {"model"}
    assert {type(model["created"]) for model in listed["data"]} == {int}
    one = await client.get(f"{BASE}/models/flux-schnell")
    assert (one.json()["id"], one.json()["owned_by"]) == ("fal-ai/flux/schnell", "fal-ai")
    assert (await client.get(f"{BASE}/models/fal-ai%2Fflux-pro")).json()["id"] == "fal-ai/flux-pro"
    assert (await client.get(f"{BASE}/models/nothing")).json()["error"]["code"] == "model_not_found"


async def test_a_failed_model_keeps_its_status_and_says_whether_to_repeat(client, server) -> None:
    asked = asyncio.create_task(client.post(GENERATIONS, json=PROMPT))
    await until(server.store.queued)
    error = ModelError.at("prompt", "flagged", "content_policy_violation")
    await server.worker.fail(await server.worker.take(), error)
    answer = await asked
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_policy_violation"
    assert answer.headers["x-request-id"] == answer.headers["x-fal-request-id"]


# ---------------------------------------------------------------- edits


def test_an_endpoint_that_may_take_pictures_but_edits_none_hands_over_to_its_sibling() -> None:
    endpoint, (notice,) = choose("fal-ai/flux-general", Endpoints(), settings=OpenAISettings(), editing=True)
    assert endpoint.id == "fal-ai/flux-general/image-to-image"
    assert (notice.code, notice.field) == ("model_replaced", "model")


async def test_an_edit_starts_from_the_picture(client, server, working) -> None:
    files = {"image": ("in.png", png(), "image/png")}
    fields = {"prompt": "a dog", "n": "2", "strength": "0.5", "seed": "7", "response_format": "b64_json"}
    answer = await client.post(EDITS, data=fields, files=files)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"]) == 2
    input_ = await stored_input(server, answer)
    assert input_["image_url"] == "data:image/png;base64," + base64.b64encode(png()).decode()
    assert (float(input_["strength"]), int(input_["seed"])) == (0.5, 7)
    assert server.store.get(answer.headers["x-request-id"]).endpoint == server.settings.openai.edit_model


@pytest.mark.parametrize(
    ("model", "endpoint"),
    [
        ("gpt-image-1.5", "fal-ai/flux/dev/image-to-image"),
        ("flux-dev", "fal-ai/flux/dev/image-to-image"),
        ("flux-schnell", "fal-ai/flux/schnell/redux"),
        ("flux-pro", "fal-ai/flux-pro/v1/redux"),
        ("fal-ai/flux-pro/v1.1-ultra/redux", "fal-ai/flux-pro/v1.1-ultra/redux"),
    ],
)
async def test_an_edit_finds_the_sibling_that_takes_a_picture(client, server, working, model, endpoint) -> None:
    fields = {"prompt": "a dog", "model": model, "response_format": "b64_json"}
    answer = await client.post(EDITS, data=fields, files={"image[]": png()})
    assert answer.status_code == 200, answer.text
    assert server.store.get(answer.headers["x-request-id"]).endpoint == endpoint


@pytest.mark.parametrize(
    ("files", "param", "code"),
    [
        ({"other": png()}, "image", "missing"),
        ([("image", png()), ("image", png())], "image", "too_long"),
        ({"image": png(), "mask": png()}, "mask", "feature_not_supported"),
    ],
)
async def test_bad_edits_name_the_part(client, files: Any, param: str, code: str) -> None:
    answer = await client.post(EDITS, data={"prompt": "x"}, files=files)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)


async def test_a_form_larger_than_a_body_may_be_is_413(build) -> None:
    server = await build(max_body_mb=1)
    async with server.client() as client:
        answer = await client.post(EDITS, data=PROMPT, files={"image": b"x" * (1 << 20)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"--b\r\n",
        PART % (b"a", b"1"),  # no end
        b"--b\r\n\r\n1\r\n--b--\r\n",  # no name
        b"--b\r\n" + b"x" * 9000 + b": 1\r\n\r\n1\r\n--b--\r\n",  # a header of 9 KB
        b"--b\r\n" + b"X-A: 1\r\n" * 40 + b"\r\n1\r\n--b--\r\n",  # 40 headers
        PART % (b"a", b"\xff\xfe") + b"--b--\r\n",  # no UTF-8
        PART % (b"a", b"x" * 70_000) + b"--b--\r\n",  # a text of 70 KB
        b"".join(PART % (b"a", b"1") for _ in range(65)) + b"--b--\r\n",  # 65 parts
    ],
)
def test_a_bad_form_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(BadRequest) as raised:
        parse(body, b"b")
    assert raised.value.message.startswith(("The form", "A form"))


def test_a_form_keeps_what_is_in_it() -> None:
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="../x.png"\r\n\r\n\r\n--\x00\r\n'
    form = parse(PART % (b"prompt", "ein Bär".encode()) + file + b"--b--\r\n", b"b")
    assert form.texts == {"prompt": "ein Bär"}
    assert form.files == {"image": [b"\r\n--\x00"]}


# ---------------------------------------------------------------- streams


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never happened")


async def streamed(client: Any, server: Any, wanted: int, steps: list[int]) -> list[tuple[str, Any]]:
    body = PROMPT | {"stream": True, "partial_images": wanted, "size": "256x192"}
    asked = asyncio.create_task(client.post(GENERATIONS, json=body))
    await until(server.store.queued)
    request = await server.worker.take()
    id_ = request.request_id
    for step in steps:
        server.worker.seen[id_] = [
            Preview(request_id=id_, lease="", step=step, steps=28, image=1, jpeg=b"\xff\xd8", width=32, height=24)
        ]
        await server.worker.log(request, f"step {step}")
        await asyncio.sleep(0.05)
    await server.worker.draw(request)
    answer = await asked
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events(answer.text)


async def test_a_stream_tells_previews_then_the_picture(client, server) -> None:
    *partial, (name, last) = await streamed(client, server, 2, [7, 10, 12, 20, 24])
    assert [event["partial_image_index"] for _, event in partial] == [0, 1]
    for kind, event in partial:
        assert kind == event["type"] == "image_generation.partial_image"
        assert (event["b64_json"], event["size"], event["output_format"]) == ("/9g=", "32x24", "jpeg")
    assert name == last["type"] == "image_generation.completed"
    assert (decoded(last["b64_json"]).size, last["size"], last["output_format"]) == ((256, 192), "256x192", "png")
    assert last["usage"] is None


async def test_no_previews_are_drawn_for_whom_wants_none(client, server) -> None:
    ((name, _),) = await streamed(client, server, 0, [7, 14])
    assert name == "image_generation.completed"
    assert server.worker.watched == []


async def test_a_failure_ends_the_stream_as_an_error_event(client, server) -> None:
    asked = asyncio.create_task(client.post(GENERATIONS, json=PROMPT | {"stream": True}))
    await until(server.store.queued)
    error = ModelError.at("prompt", "flagged", "content_policy_violation")
    await server.worker.fail(await server.worker.take(), error)
    ((name, said),) = events((await asked).text)
    assert (name, said["error"]["code"]) == ("error", "content_policy_violation")


async def test_a_streamed_edit_has_its_own_names(client, server, working) -> None:
    answer = await client.post(EDITS, data=PROMPT | {"stream": "true"}, files={"image": png()})
    assert [name for name, _ in events(answer.text)] == ["image_edit.completed"]
