"""fal's JavaScript client, unmodified, in Node.js."""

import base64
import json
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

Program = Callable[..., Any]
PROMPT = "a lighthouse at night"
SMALL = json.dumps({"prompt": PROMPT, "image_size": "square"})
# Four of the largest pictures: the queue has something to do for a moment, so the states can be seen.
BIG = json.dumps({"prompt": PROMPT, "num_images": 4, "image_size": {"width": 2048, "height": 2048}})


def is_uuid(text: object) -> bool:
    return isinstance(text, str) and [len(part) for part in text.split("-")] == [8, 4, 4, 4, 12]


def test_run(node: Program, picture: Program, check_output: Program) -> None:
    said = node(
        f"""
        const input = {{ prompt: {PROMPT!r}, image_size: {{ width: 640, height: 480 }}, num_images: 2, seed: 7 }};
        out(await fal.run("fal-ai/flux-pro", {{ input }}));
        """
    )
    check_output(said["data"], prompt=PROMPT, count=2)
    assert said["data"]["seed"] == 7
    assert is_uuid(said["requestId"])
    assert [picture(image).size for image in said["data"]["images"]] == [(640, 480)] * 2


def test_subscribe_with_updates_and_logs(node: Program, check_output: Program) -> None:
    said = node(
        f"""
        const updates = [], ids = [];
        const result = await fal.subscribe("fal-ai/flux-pro", {{ input: {BIG}, logs: true, pollInterval: 50,
          onEnqueue: (id) => ids.push(id), onQueueUpdate: (update) => updates.push(update) }});
        out({{ result, updates, ids }});
        """
    )
    states = [update["status"] for update in said["updates"]]
    assert "IN_PROGRESS" in states
    assert states[-1] == "COMPLETED"
    assert states == sorted(states, key=["IN_QUEUE", "IN_PROGRESS", "COMPLETED"].index)
    for update in said["updates"]:
        if update["status"] == "IN_QUEUE":
            assert type(update["queue_position"]) is int
        else:
            assert isinstance(update["logs"], list)
    assert "image 4/4: step 28/28" in [log["message"] for log in said["updates"][-1]["logs"]]
    assert said["ids"] == [said["result"]["requestId"]]
    assert is_uuid(said["ids"][0])
    check_output(said["result"]["data"], prompt=PROMPT, count=4)


def test_queue_submit_status_result(node: Program, check_output: Program) -> None:
    said = node(
        f"""
        const app = "fal-ai/flux-pro";
        const submitted = await fal.queue.submit(app, {{ input: {SMALL}, priority: "low", hint: "h" }});
        const requestId = submitted.request_id;
        let status;
        do {{
          status = await fal.queue.status(app, {{ requestId, logs: true }});
        }} while (status.status !== "COMPLETED");
        const quiet = await fal.queue.status(app, {{ requestId }});
        out({{ submitted, status, quiet, result: await fal.queue.result(app, {{ requestId }}) }});
        """
    )
    submitted = said["submitted"]
    assert submitted["status"] == "IN_QUEUE"
    assert type(submitted["queue_position"]) is int
    assert submitted["response_url"].endswith(f"queue.fal.run/fal-ai/flux-pro/requests/{submitted['request_id']}")
    assert said["status"]["metrics"]["inference_time"] > 0
    assert [log["message"] for log in said["status"]["logs"]][-1].startswith("Done")
    assert said["quiet"]["logs"] is None
    assert said["result"]["requestId"] == submitted["request_id"]
    check_output(said["result"]["data"], prompt=PROMPT)


def test_cancel(node: Program) -> None:
    said = node(
        f"""
        const app = "fal-ai/flux-pro", busy = [];
        for (let i = 0; i < 3; i++) busy.push(await fal.queue.submit(app, {{ input: {BIG} }}));
        const {{ request_id: requestId }} = await fal.queue.submit(app, {{ input: {SMALL} }});
        await fal.queue.cancel(app, {{ requestId }});
        let status;
        do {{ status = await fal.queue.status(app, {{ requestId }}); }} while (status.status !== "COMPLETED");
        const error = await fal.queue.result(app, {{ requestId }}).catch((error) => error);
        const again = await fal.queue.cancel(app, {{ requestId }}).catch((error) => error);
        for (const one of busy) await fal.queue.cancel(app, {{ requestId: one.request_id }}).catch(() => null);
        out({{ status, error: [error.name, error.status, error.body], again: [again.status, again.body] }});
        """
    )
    assert said["status"]["error_type"] == "client_cancelled"
    name, status, body = said["error"]
    assert (name, status, body["error_type"]) == ("ApiError", 499, "client_cancelled")
    assert said["again"] == [400, {"status": "ALREADY_COMPLETED"}]


def test_sync_mode(node: Program) -> None:
    said = node(
        f"""
        const input = {{ ...{SMALL}, sync_mode: true, output_format: "png" }};
        out((await fal.subscribe("fal-ai/flux-pro", {{ input, pollInterval: 50 }})).data);
        """
    )
    head, _, data = said["images"][0]["url"].partition(",")
    assert head == "data:image/png;base64"
    decoded = Image.open(BytesIO(base64.b64decode(data)))
    assert (decoded.format, decoded.size) == ("PNG", (512, 512))


def test_storage_upload(node: Program) -> None:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(buffer, "PNG")
    url = node(
        f"""
        const bytes = Buffer.from({buffer.getvalue().hex()!r}, "hex");
        out(await fal.storage.upload(new File([bytes], "red.png", {{ type: "image/png" }})));
        """
    )
    answer = httpx.get(url)
    assert answer.content == buffer.getvalue()
    assert answer.headers["content-type"] == "image/png"
    assert url.endswith(".png")


def test_a_file_in_the_input_is_uploaded_first(node: Program) -> None:
    """The client replaces blobs by URLs, also in a member that flux-pro ignores: a draw proves that both went well."""
    said = node(
        f"""
        const image_url = new Blob(["not a picture"], {{ type: "text/plain" }});
        out((await fal.run("fal-ai/flux-pro", {{ input: {{ ...{SMALL}, image_url }} }})).data);
        """
    )
    assert said["prompt"] == PROMPT


@pytest.mark.parametrize("call", ["run", "subscribe"])
def test_bad_input_is_a_validation_error_with_fields(node: Program, call: str) -> None:
    said = node(
        f"""
        import {{ ValidationError }} from "@fal-ai/client";
        const input = {{ prompt: "x", num_images: 99, image_size: "huge" }};
        const error = await fal.{call}("fal-ai/flux-pro", {{ input, pollInterval: 50 }}).catch((error) => error);
        out({{ is: error instanceof ValidationError, name: error.name, status: error.status, fields: error.fieldErrors,
              one: error.getFieldErrors("num_images"), requestId: error.requestId }});
        """
    )
    assert said["is"] is True
    assert (said["name"], said["status"]) == ("ValidationError", 422)
    assert {field["loc"][1] for field in said["fields"]} == {"num_images", "image_size"}
    assert [field["type"] for field in said["one"]] == ["less_than_equal"]
    assert is_uuid(said["requestId"])


def test_unknown_application_is_404(node: Program) -> None:
    said = node(
        """
        const error = await fal.run("fal-ai/no-such-app", { input: {} }).catch((error) => error);
        out([error.name, error.status, error.message, error.body]);
        """
    )
    assert said[:3] == ["ApiError", 404, "Not Found"]
    assert said[3]["detail"] == 'Application "no-such-app" not found'


def test_keys_are_judged(node: Program, locked_server: tuple[Any, str], check_output: Program) -> None:
    server, key = locked_server
    source = f"""
        const result = await fal.run("fal-ai/flux-pro", {{ input: {SMALL} }}).catch((error) => error);
        out(result.data ?? [result.status, result.body.detail]);
        """
    check_output(node(source, url=server.url, variables={"FAL_KEY": key}), prompt=PROMPT)
    assert node(source, url=server.url) == [401, "No user found for Key ID and Secret"]


def test_a_page_without_a_key_streams_and_draws_with_tokens(
    node: Program, locked_server: tuple[Any, str], check_output: Program
) -> None:
    """`connectionMode: "client"` and a token provider, as fal documents it: only the provider has the key."""
    server, key = locked_server
    said = node(
        f"""
        const key = process.env.FAL_KEY;
        delete process.env.FAL_KEY;
        const headers = {{ Authorization: `Key ${{key}}`, "Content-Type": "application/json" }};
        const tokens = [], apps = [];
        const tokenProvider = async (app) => {{
          apps.push(app);
          const body = JSON.stringify({{ allowed_apps: [app], duration: 120 }});
          const answer = await fetch("https://rest.fal.ai/tokens/realtime", {{ method: "POST", headers, body }});
          tokens.push(await answer.json());
          return tokens.at(-1);
        }};
        fal.config({{ credentials: () => undefined }});
        const stream = await fal.stream("fal-ai/flux-pro",
          {{ input: {SMALL}, connectionMode: "client", tokenProvider }});
        for await (const _ of stream);
        const drawn = await new Promise((resolve, reject) => {{
          const connection = fal.realtime.connect("fal-ai/flux-pro", {{ tokenProvider, tokenExpirationSeconds: 120,
            onResult: (result) => {{ connection.close(); resolve(result.images[0].content.length); }},
            onError: reject }});
          connection.send({SMALL});
        }});
        const refused = await fal.run("fal-ai/flux-pro", {{ input: {SMALL} }}).catch((error) => error.status);
        out({{ output: await stream.done(), drawn, refused, tokens, apps }});
        process.exit(0);
        """,
        url=server.url,
        variables={"FAL_KEY": key, "NODE_OPTIONS": "--experimental-websocket"},
    )
    check_output(said["output"], prompt=PROMPT)
    assert said["drawn"] > 100
    assert said["refused"] == 401
    assert len(said["tokens"]) == 2
    log = (server.folder / "server.log").read_text()
    assert not [token for token in (*said["tokens"], key.partition(":")[2]) if token in log]


def test_method_a_proxy_url_without_exec(
    server: Any, node_program: Callable[[str], Path], check_output: Program
) -> None:
    """One line of configuration, no shim: run, queue and uploads go by way of our proxy route."""
    source = f"""
        import {{ fal }} from "@fal-ai/client";
        fal.config({{ credentials: "k:s", proxyUrl: {{ url: "{server.url}/api/fal/proxy", when: "always" }} }});
        const subscribed = await fal.subscribe("fal-ai/flux-pro", {{ input: {SMALL}, pollInterval: 50 }});
        const ran = await fal.run("fal-ai/flux-pro", {{ input: {SMALL} }});
        const url = await fal.storage.upload(new File(["by proxy"], "hello.txt", {{ type: "text/plain" }}));
        const error = await fal.run("fal-ai/flux-pro", {{ input: {{}} }}).catch((error) => error);
        console.log(JSON.stringify({{ outputs: [subscribed.data, ran.data], url, error: [error.name, error.status] }}));
        """
    done = subprocess.run(["node", str(node_program(source))], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for output in said["outputs"]:
        check_output(output, prompt=PROMPT)
        assert output["images"][0]["url"].startswith(server.url)
    assert httpx.get(said["url"]).text == "by proxy"
    assert said["error"] == ["ValidationError", 422]


def test_method_connect_keeps_fals_names(node: Program, check_output: Program) -> None:
    said = node(
        f"""
        const {{ request_id, response_url }} = await fal.queue.submit("fal-ai/flux-pro", {{ input: {SMALL} }});
        const {{ data }} = await fal.subscribe("fal-ai/flux-pro", {{ input: {SMALL}, pollInterval: 50 }});
        const url = await fal.storage.upload(new File(["hello"], "hello.txt", {{ type: "text/plain" }}));
        const image = await (await fetch(data.images[0].url)).arrayBuffer();
        out({{ request_id, response_url, data, url, text: await (await fetch(url)).text(),
              image: Buffer.from(image).subarray(0, 3).toString("hex") }});
        """,
        method="connect",
    )
    assert said["response_url"] == f"https://queue.fal.run/fal-ai/flux-pro/requests/{said['request_id']}"
    check_output(said["data"], prompt=PROMPT)
    assert said["data"]["images"][0]["url"].startswith("https://v3.fal.media/files/")
    assert said["image"] == "ffd8ff"
    assert said["text"] == "hello"


def test_common_js_and_typescript_programs(
    execute: Program, node_program: Callable[..., Path], node_modules: Path
) -> None:
    """`node app.cjs`, and a runner that starts Node.js itself."""
    common = node_program(
        f'const {{ fal }} = require("@fal-ai/client");\n'
        f'fal.run("fal-ai/flux-pro", {{ input: {SMALL} }}).then((r) => console.log(r.data.prompt));',
        "app.cjs",
    )
    done = execute("node", str(common))
    assert done.stdout == f"{PROMPT}\n", done.stderr
    typed = node_program(
        f'import {{ fal }} from "@fal-ai/client";\n'
        f'const result: {{ data: any }} = await fal.run("fal-ai/flux-pro", {{ input: {SMALL} }});\n'
        "console.log(result.data.prompt);",
        "app.mts",
    )
    done = execute(str(node_modules / ".bin" / "tsx"), str(typed))
    assert done.stdout == f"{PROMPT}\n", done.stderr
