"""Other people's clients of fal's wire: Vercel's ai-sdk, litellm, Hugging Face's two, requests written by hand."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

Program = Callable[..., Any]

AI_SDK = """
import { createFal, fal } from "@ai-sdk/fal";
import { generateImage } from "ai";
const provider = %s;
const model = provider.image("fal-ai/flux-pro");
const { images } = await generateImage({ model, prompt: "a cat", n: 2, size: "640x480", seed: 7,
  providerOptions: { fal: { outputFormat: "png", safetyTolerance: 3 } } });
console.log(JSON.stringify(images.map((image) => [image.mediaType, image.base64])));
"""


def check_ai_sdk(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    images = json.loads(done.stdout)
    assert len(images) == 2
    for media_type, data in images:
        assert media_type == "image/png"
        decoded = Image.open(BytesIO(base64.b64decode(data)))
        assert (decoded.format, decoded.size) == ("PNG", (640, 480))


@pytest.mark.matrix("@ai-sdk/fal 2.0.59", "run")
def test_ai_sdk_with_a_base_url(server: Any, node_program: Callable[[str], Path]) -> None:
    """Method C: one option, no exec."""
    source = AI_SDK % f"createFal({{ apiKey: 'local:local', baseURL: '{server.url}' }})"
    check_ai_sdk(
        subprocess.run(["node", str(node_program(source))], capture_output=True, text=True, timeout=120, check=False)
    )


@pytest.mark.matrix("@ai-sdk/fal 2.0.59", "run")
@pytest.mark.parametrize("method", ["shim", "connect"])
def test_ai_sdk_unchanged_under_exec(execute: Program, node_program: Callable[[str], Path], method: str) -> None:
    check_ai_sdk(execute("node", str(node_program(AI_SDK % "fal")), method=method))


# Version 3 refuses to fetch an image from a private address; its user agent tells the server to name fal's host.
GUARDED = AI_SDK.replace('"@ai-sdk/fal"', '"ai-sdk-fal-3"').replace('"ai"', '"ai-7"')


@pytest.mark.matrix("@ai-sdk/fal 3.0.41", "run")
@pytest.mark.parametrize("method", ["shim", "connect"])
def test_ai_sdk_that_refuses_private_addresses_gets_its_images_under_exec(
    execute: Program, node_program: Callable[[str], Path], method: str
) -> None:
    check_ai_sdk(execute("node", str(node_program(GUARDED % "fal")), method=method))


def test_file_urls_under_the_shim_are_ours_for_browsers_and_fals_where_asked(
    execute: Program, check_output: Program
) -> None:
    """Either way the program fetches them, and the queue's URLs are fal's."""
    source = """if True:
        import fal_client, httpx, json
        handle = fal_client.submit("fal-ai/flux-pro", {"prompt": "a cat"})
        output = handle.get()
        same = fal_client.SyncClient().get_handle("fal-ai/flux-pro", handle.request_id)
        assert (same.response_url, same.status_url, same.cancel_url) == (
            handle.response_url, handle.status_url, handle.cancel_url), handle
        url = output["images"][0]["url"]
        again = fal_client.run("fal-ai/flux/dev/image-to-image", {"prompt": "a dog", "image_url": url})
        print(json.dumps([url, len(httpx.get(url).content) > 100, len(again["images"])]))
        """
    for wanted, base in (("", "http://127.0.0.1:"), ("fal", "https://v3.fal.media/files/")):
        done = execute(sys.executable, "-c", source, variables={"FAL_FILE_URLS": wanted})
        assert done.returncode == 0, done.stderr
        url, *rest = json.loads(done.stdout)
        assert url.startswith(base)
        assert rest == [True, 1]


HUGGING_FACE = """
import sys
from huggingface_hub import InferenceClient
from huggingface_hub.inference import _providers
from huggingface_hub.inference._providers._common import HARDCODED_MODEL_INFERENCE_MAPPING
from huggingface_hub.hf_api import InferenceProviderMapping
# What the client would ask huggingface.co for.
HARDCODED_MODEL_INFERENCE_MAPPING["fal-ai"]["flux-pro"] = InferenceProviderMapping(
    hf_model_id="flux-pro", provider="fal-ai", providerId="fal-ai/flux-pro", status="live", task="text-to-image")
if len(sys.argv) > 1:
    _providers.PROVIDERS["fal-ai"]["text-to-image"].base_url = sys.argv[1]
client = InferenceClient(provider="fal-ai", api_key="local:local")
image = client.text_to_image("a cat", model="flux-pro", width=640, height=480)
print(image.format, *image.size)
"""


@pytest.mark.matrix("huggingface_hub 2.4.0", "run")
def test_huggingface_hub_with_a_base_url(server: Any) -> None:
    """Method C: one line of Python."""
    done = subprocess.run(
        [sys.executable, "-c", HUGGING_FACE, server.url], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "JPEG 640 480\n", done.stderr


@pytest.mark.matrix("huggingface_hub 2.4.0", "run")
@pytest.mark.parametrize("method", ["shim", "connect"])
def test_huggingface_hub_unchanged_under_exec(execute: Program, method: str) -> None:
    done = execute(sys.executable, "-c", HUGGING_FACE, method=method)
    assert done.stdout == "JPEG 640 480\n", done.stderr


@pytest.mark.matrix("@huggingface/inference 4.13.30", "submit")
@pytest.mark.matrix("@huggingface/inference 4.13.30", "status")
@pytest.mark.matrix("@huggingface/inference 4.13.30", "result")
@pytest.mark.parametrize("method", ["shim", "connect"])
def test_huggingface_inference_unchanged_under_exec(
    execute: Program, node_program: Callable[[str], Path], node_modules: Path, method: str
) -> None:
    consts = node_modules.resolve() / "@huggingface" / "inference" / "dist" / "esm" / "providers" / "consts.js"
    source = f"""
        import {{ InferenceClient }} from "@huggingface/inference";
        const {{ HARDCODED_MODEL_INFERENCE_MAPPING: mapping }} = await import({json.dumps(consts.as_uri())});
        mapping["fal-ai"]["flux-pro"] = {{
          hfModelId: "flux-pro", providerId: "fal-ai/flux-pro", status: "live", task: "text-to-image" }};
        const alive = setInterval(() => null, 1000); // the client's own timer does not keep Node.js alive
        const client = new InferenceClient("local:local");
        const image = await client.textToImage({{ provider: "fal-ai", model: "flux-pro", inputs: "a cat" }});
        clearInterval(alive);
        console.log(image.type, Buffer.from(await image.arrayBuffer()).toString("base64"));
        """
    done = execute("node", str(node_program(source)), method=method)
    assert done.returncode == 0, done.stderr
    media_type, data = done.stdout.split()
    assert media_type == "image/jpeg"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (1024, 768)


LITELLM = """
import asyncio, json, litellm
from litellm import aimage_generation, image_generation
options = {"prompt": "a cat"} | BASE
sizes = {"n": 2, "size": "1024x768"}
first = image_generation(model="fal_ai/fal-ai/flux-pro/v1.1", **sizes, **options)
ultra = image_generation(model="fal_ai/fal-ai/flux-pro/v1.1-ultra", **options)
fast = asyncio.run(aimage_generation(model="fal_ai/fal-ai/flux/schnell", **options))
try:
    image_generation(model="fal_ai/fal-ai/flux-pro/v1.1", n=99, **options)
except Exception as error:
    refused = [type(error).__name__, getattr(error, "status_code", None)]
out({"urls": [[image.url for image in answer.data] for answer in (first, ultra, fast)], "refused": refused})
"""


@pytest.mark.matrix("litellm 1.110.2", "run")
@pytest.mark.matrix("litellm 1.110.2", "errors")
@pytest.mark.parametrize("method", ["base URL", "shim"])
def test_litellm(server: Any, python: Program, interpreter: Callable[[str], Path], method: str) -> None:
    """Method C by argument, and unchanged under exec. Whatever pro model is named, it asks for v1.1 or v1.1-ultra."""
    base = {"api_base": server.url, "api_key": "local:local"} if method == "base URL" else {}
    variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it asks github.com for prices
    said = python(f"BASE = {base!r}\n" + LITELLM, interpreter=interpreter("litellm"), variables=variables)
    assert [len(urls) for urls in said["urls"]] == [2, 1, 1]
    sizes = [Image.open(BytesIO(httpx.get(urls[0]).content)).size for urls in said["urls"]]
    assert sizes == [(1024, 768), (2752, 1536), (1024, 768)]
    assert said["refused"][1] == 422


@pytest.mark.matrix("axios, httpx: requests by hand", "submit")
@pytest.mark.matrix("axios, httpx: requests by hand", "status")
@pytest.mark.matrix("axios, httpx: requests by hand", "result")
@pytest.mark.matrix("axios, httpx: requests by hand", "cancel")
def test_requests_written_by_hand(execute: Program, node_program: Callable[[str], Path], check_output: Program) -> None:
    """Whole endpoint ids in queue URLs, as many programs have them; axios in Node.js, httpx in Python."""
    source = """
        import axios from "axios";
        const http = axios.create({ baseURL: "https://queue.fal.run", headers: { Authorization: "Key a:b" } });
        const { data } = await http.post("/fal-ai/flux-pro/v1.1", { prompt: "a cat" });
        const at = `/fal-ai/flux-pro/v1.1/requests/${data.request_id}`;
        const wait = () => new Promise((go) => setTimeout(go, 50));
        while ((await http.get(`${at}/status`)).data.status !== "COMPLETED") await wait();
        const late = await http.put(`${at}/cancel`).catch((error) => error.response);
        if (late.status !== 400 || late.data.status !== "ALREADY_COMPLETED") throw new Error(JSON.stringify(late.data));
        console.log(JSON.stringify((await http.get(at)).data));
        """
    done = execute("node", str(node_program(source)))
    assert done.returncode == 0, done.stderr
    check_output(json.loads(done.stdout), prompt="a cat")
    source = """if True:
        import httpx, json, time
        http = httpx.Client(base_url="https://queue.fal.run", headers={"Authorization": "Key a:b"})
        answer = http.post("/fal-ai/flux-pro/v1.1", json={"prompt": "a cat"}).json()
        at = "/fal-ai/flux-pro/v1.1/requests/" + answer["request_id"]
        while http.get(at + "/status").status_code == 202: time.sleep(0.05)
        print(json.dumps(http.get(at).json()))
        """
    done = execute(sys.executable, "-c", source)
    assert done.returncode == 0, done.stderr
    check_output(json.loads(done.stdout), prompt="a cat")
