"""OpenAI's own clients, unmodified: one line of configuration, pictures, previews, edits, errors."""

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

VERBS = ("run", "stream", "upload", "errors")

# Sync and async differ only in `await`.
PYTHON = """
import asyncio, inspect, io, json, traceback
import openai
from PIL import Image
client = openai.AsyncOpenAI() if ASYNC else openai.OpenAI()
async def done(value): return await value if inspect.isawaitable(value) else value
async def listed(events): return [e async for e in events] if hasattr(events, "__aiter__") else list(events)
def told(error):
    return [type(error).__name__, error.status_code, error.param, error.code, error.request_id is not None]
buffer = io.BytesIO(); Image.new("RGB", (128, 96), (200, 10, 10)).save(buffer, "PNG")

async def run():
    both = await done(client.images.generate(prompt="a cat", model="gpt-image-1.5", n=2, size="512x512"))
    url = await done(client.images.generate(prompt="a cat", model="flux-schnell", response_format="url"))
    models = [m.id async for m in client.models.list()] if ASYNC else [m.id for m in client.models.list()]
    one = await done(client.models.retrieve("fal-ai/flux-pro"))
    return {"both": both.model_dump(), "url": url.model_dump(), "models": models, "one": one.model_dump()}
async def stream():
    events = await done(client.images.generate(
        prompt="a cat", model="gpt-image-1.5", size="1024x1024", stream=True, partial_images=2))
    return [e.model_dump() for e in await listed(events)]
async def upload():
    edited = await done(client.images.edit(
        image=("in.png", buffer.getvalue(), "image/png"), prompt="a dog", model="gpt-image-1.5"))
    events = await done(client.images.edit(
        image=("in.png", buffer.getvalue(), "image/png"), prompt="a dog", model="flux-dev", stream=True))
    return {"edited": edited.model_dump(), "events": [e.model_dump() for e in await listed(events)]}
async def errors():
    said = []
    for arguments in ({"prompt": "a cat", "n": 9}, {"prompt": "a cat", "model": "no-such-model"}):
        try:
            await done(client.images.generate(**arguments))
        except openai.APIStatusError as error:
            said.append(told(error))
    wrong = (openai.AsyncOpenAI if ASYNC else openai.OpenAI)(base_url=LOCKED, api_key="sk-abc")
    try:
        await done(wrong.images.generate(prompt="a cat"))
    except openai.AuthenticationError as error:
        said.append(told(error))
    right = (openai.AsyncOpenAI if ASYNC else openai.OpenAI)(base_url=LOCKED, api_key=KEY)
    said.append(len((await done(right.images.generate(prompt="a cat"))).data))
    return said

async def main():
    said = {}
    for verb in VERBS:
        try: said[verb] = {"value": await globals()[verb]()}
        except Exception: said[verb] = {"error": traceback.format_exc()}
    return said
print(json.dumps(asyncio.run(main())))
"""

JS = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI();
const listed = async (events) => { const all = []; for await (const event of events) all.push(event); return all; };
const model = "gpt-image-1.5", prompt = "a cat";
const file = () => toFile(Buffer.from(PICTURE, "base64"), "in.png", { type: "image/png" });
const told = (error) =>
  [error.constructor.name, error.status, error.param ?? null, error.code, error.requestID != null];
const verbs = {
  run: async () => ({
    both: await client.images.generate({ prompt, model, n: 2, size: "512x512" }),
    url: await client.images.generate({ prompt, model: "flux-schnell", response_format: "url" }),
    models: (await listed(client.models.list())).map((m) => m.id),
    one: await client.models.retrieve("fal-ai/flux-pro"),
  }),
  stream: async () => listed(
    await client.images.generate({ prompt, model, size: "1024x1024", stream: true, partial_images: 2 })),
  upload: async () => ({
    edited: await client.images.edit({ image: await file(), prompt: "a dog", model }),
    events: await listed(await client.images.edit(
      { image: await file(), prompt: "a dog", model: "flux-dev", stream: true })),
  }),
  errors: async () => {
    const said = [];
    for (const body of [{ prompt, n: 9 }, { prompt, model: "no-such-model" }])
      await client.images.generate(body).catch((error) => said.push(told(error)));
    await new OpenAI({ baseURL: LOCKED, apiKey: "sk-abc" }).images.generate({ prompt })
      .catch((error) => said.push(told(error)));
    said.push((await new OpenAI({ baseURL: LOCKED, apiKey: KEY }).images.generate({ prompt })).data.length);
    return said;
  },
};
const said = {};
for (const verb of VERBS) {
  try { said[verb] = { value: await verbs[verb]() }; } catch (error) { said[verb] = { error: String(error.stack) }; }
}
console.log(JSON.stringify(said));
"""
CLIENTS = ("openai 3.57.0", "openai 3.57.0, async", "openai 6.49.0, Node.js")


@pytest.fixture(scope="session")
def said(
    server: Any, locked_server: tuple[Any, str], node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What one client's program printed; it is run once, with two variables and nothing else."""
    known: dict[str, dict[str, Any]] = {}
    locked, key = locked_server
    constants = {"VERBS": VERBS, "LOCKED": locked.url + "/openai/v1", "KEY": key}

    def command(client: str) -> list[str]:
        if "Node" not in client:
            head = "".join(f"{name} = {value!r}\n" for name, value in constants.items())
            return [sys.executable, "-W", "error", "-c", f"ASYNC = {'async' in client}\n{head}{PYTHON}"]
        folder = tmp_path_factory.mktemp("openai")
        (folder / "node_modules").symlink_to(node_modules)
        buffer = io.BytesIO()
        Image.new("RGB", (128, 96), (200, 10, 10)).save(buffer, "PNG")
        more = constants | {"PICTURE": base64.b64encode(buffer.getvalue()).decode()}
        head = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in more.items())
        (folder / "app.mjs").write_text(head + JS)
        return ["node", str(folder / "app.mjs")]

    def run(client: str) -> dict[str, Any]:
        if client not in known:
            clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
            variables = {"OPENAI_BASE_URL": server.url + "/openai/v1", "OPENAI_API_KEY": "local:local"}
            done = subprocess.run(
                command(client), env=clean | variables, capture_output=True, text=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stderr
            known[client] = json.loads(done.stdout.splitlines()[-1])
        return known[client]

    return run


@pytest.mark.parametrize(
    ("client", "verb"),
    [pytest.param(c, verb, marks=pytest.mark.matrix(c, verb)) for c in CLIENTS for verb in VERBS],
)
def test_openais_client(said: Callable[[str], dict[str, Any]], client: str, verb: str) -> None:
    answer = said(client)[verb]
    assert "error" not in answer, answer["error"]
    JUDGES[verb](answer["value"])


def decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def judge_run(value: Any) -> None:
    both = value["both"]["data"]
    assert len(both) == 2
    for item in both:
        assert (decoded(item["b64_json"]).format, decoded(item["b64_json"]).size) == ("PNG", (512, 512))
        assert httpx.get(item["url"]).content == base64.b64decode(item["b64_json"])
    (only,) = value["url"]["data"]
    assert only.get("b64_json") is None
    assert httpx.get(only["url"]).headers["content-type"] == "image/png"
    assert "fal-ai/flux-pro" in value["models"]
    assert value["one"]["id"] == "fal-ai/flux-pro"


def judge_stream(value: Any) -> None:
    *partial, last = value
    assert [event["partial_image_index"] for event in partial] == list(range(len(partial)))
    assert {event["type"] for event in partial} <= {"image_generation.partial_image"}
    for event in partial:
        assert decoded(event["b64_json"]).format == "JPEG"
    assert last["type"] == "image_generation.completed"
    assert decoded(last["b64_json"]).size == (1024, 1024)


def judge_upload(value: Any) -> None:
    assert decoded(value["edited"]["data"][0]["b64_json"]).size == (128, 96)
    assert [event["type"] for event in value["events"]] == ["image_edit.completed"]
    assert decoded(value["events"][-1]["b64_json"]).size == (128, 96)


def judge_errors(value: Any) -> None:
    assert value == [
        ["BadRequestError", 400, "n", "less_than_equal", True],
        ["NotFoundError", 404, "model", "model_not_found", True],
        ["AuthenticationError", 401, None, "invalid_api_key", True],
        1,
    ]


JUDGES: dict[str, Callable[[Any], None]] = {
    "run": judge_run, "stream": judge_stream, "upload": judge_upload, "errors": judge_errors,
}  # fmt: skip
