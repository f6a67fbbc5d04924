"""Every verb of fal's own clients, one program a client: the cells of docs/reference/clients.md."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

Program = Callable[..., Any]
PROMPT = "a lighthouse at night"
BIG = {"prompt": PROMPT, "num_images": 4, "image_size": {"width": 2048, "height": 2048}, "num_inference_steps": 50}

# ---------------------------------------------------------------- Python

# Sync and async differ only in `await`: the text between the marks is the same program.
PYTHON = """
import asyncio, inspect, json, sys, tempfile, traceback
import fal_client as f
from PIL import Image
app, small, big = "fal-ai/flux-pro", {"prompt": PROMPT, "image_size": "square"}, BIG
wait = "_async" if ASYNC else ""
call = {name: getattr(f, name + wait, None) for name in (
    "run", "submit", "status", "result", "subscribe", "cancel", "upload", "upload_file", "upload_image", "stream",
    "realtime")}
async def done(value):
    return await value if inspect.isawaitable(value) else value
async def listed(events):
    return [e async for e in events] if hasattr(events, "__aiter__") else list(events)

def code(error):  # the oldest client keeps the answer in the cause
    answer = getattr(error, "response", None) or error.__cause__.response
    return answer.status_code

async def run(): return await done(call["run"](app, arguments=small))
async def submit():
    handle = await done(call["submit"](app, arguments=small))
    return {"id": handle.request_id, "output": await done(handle.get())}
async def status():
    handle = await done(call["submit"](app, arguments=small))
    names = [type(await done(call["status"](app, handle.request_id, with_logs=True))).__name__]
    names += [type(e).__name__ for e in await listed(handle.iter_events())]
    return names
async def result():
    handle = await done(call["submit"](app, arguments=small))
    await listed(handle.iter_events())
    return await done(call["result"](app, handle.request_id))
async def subscribe():
    updates = []
    told = lambda update: updates.append(type(update).__name__)
    output = await done(call["subscribe"](app, arguments=small, on_queue_update=told))
    return {"updates": updates, "output": output}
async def logs():
    handle = await done(call["submit"](app, arguments=small))
    return [l["message"] for l in (await listed(handle.iter_events(with_logs=True)))[-1].logs]
async def cancel():
    busy = [await done(call["submit"](app, arguments=big)) for _ in range(2)]
    handle = await done(call["submit"](app, arguments=small))
    await done(handle.cancel())
    for one in busy:
        await done(call["cancel"](app, one.request_id))
    try:
        await done(handle.get())
    except Exception as error:
        return str(code(error))
async def upload():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("from a file"); file.flush()
        return [await done(call["upload"](b"from bytes", "text/plain")), await done(call["upload_file"](file.name)),
                await done(call["upload_image"](Image.new("RGB", (8, 6), (200, 10, 10))))]
async def stream(): return await listed(call["stream"](app, arguments=small))
async def realtime():
    if ASYNC:
        async with call["realtime"](app) as connection:
            await connection.send(small)
            answer = await connection.recv()
    else:
        with call["realtime"](app) as connection:
            connection.send(small)
            answer = connection.recv()
    return {"keys": sorted(answer), "image": len(answer["images"][0].get("content") or b"")}
async def errors():
    try:
        await done(call["run"](app, arguments={"prompt": PROMPT, "num_images": 99}))
    except Exception as error:
        return [code(error), str(error)]

async def main():
    said = {}
    for verb, needs in VERBS.items():
        if all(call[name] is not None for name in needs):
            try:
                said[verb] = {"value": await globals()[verb]()}
            except Exception:
                said[verb] = {"error": traceback.format_exc()}
    return said
out(asyncio.run(main()))
"""
PYTHON_VERBS = {
    "run": ["run"], "submit": ["submit"], "status": ["status"], "result": ["result"], "subscribe": ["subscribe"],
    "logs": ["submit"], "cancel": ["cancel"], "upload": ["upload", "upload_file", "upload_image"],
    "stream": ["stream"], "realtime": ["realtime"], "errors": ["run"],
}  # fmt: skip
NOT_THERE = {("0.5.9", "", "realtime"), ("0.5.9", "async", "realtime")}  # came later

PYTHON_CELLS = [
    (version, mode, verb)
    for version in ("0.5.9", "0.10.0", "1.0.3")
    for mode in ("", "async")
    for verb in PYTHON_VERBS
    if (version, mode, verb) not in NOT_THERE
]


def name_of(version: str, mode: str) -> str:
    return f"fal-client {version}{', async' if mode else ''}"


@pytest.fixture(scope="session")
def python_said(python: Program) -> Callable[[str, str], dict[str, Any]]:
    """What one client's program printed; it is run once."""
    known: dict[tuple[str, str], dict[str, Any]] = {}

    def said(version: str, mode: str) -> dict[str, Any]:
        if (version, mode) not in known:
            head = f"ASYNC, PROMPT, BIG, VERBS = {bool(mode)}, {PROMPT!r}, {BIG!r}, {PYTHON_VERBS!r}\n"
            client = None if version == "1.0.3" else version
            known[version, mode] = python(head + PYTHON, client=client)
        return known[version, mode]

    return said


@pytest.mark.parametrize(
    ("version", "mode", "verb"),
    [pytest.param(*cell, marks=pytest.mark.matrix(name_of(cell[0], cell[1]), cell[2])) for cell in PYTHON_CELLS],
)
def test_python(
    python_said: Callable[[str, str], dict[str, Any]],
    check: Callable[[str, Any], None],
    version: str,
    mode: str,
    verb: str,
) -> None:
    said = python_said(version, mode)[verb]
    assert "error" not in said, said["error"]
    check(verb, said["value"])


# ---------------------------------------------------------------- JavaScript

JS = """
const app = "fal-ai/flux-pro", small = SMALL, big = BIG, pollInterval = 50;
const verbs = {
  run: async () => (await fal.run(app, { input: small })).data,
  submit: async () => {
    const { request_id: requestId } = await fal.queue.submit(app, { input: small });
    await fal.queue.subscribeToStatus(app, { requestId, pollInterval });
    return { id: requestId, output: (await fal.queue.result(app, { requestId })).data };
  },
  status: async () => {
    const { request_id: requestId } = await fal.queue.submit(app, { input: small });
    const names = [];
    do names.push((await fal.queue.status(app, { requestId, logs: true })).status);
    while (names.at(-1) !== "COMPLETED");
    return names.map((name) => ({ IN_QUEUE: "Queued", IN_PROGRESS: "InProgress", COMPLETED: "Completed" })[name]);
  },
  result: async () => {
    const { request_id: requestId } = await fal.queue.submit(app, { input: small });
    await fal.queue.subscribeToStatus(app, { requestId, pollInterval });
    return (await fal.queue.result(app, { requestId })).data;
  },
  subscribe: async () => {
    const updates = [];
    const onQueueUpdate = (update) => updates.push(update.status);
    const { data } = await fal.subscribe(app, { input: small, pollInterval, onQueueUpdate });
    return { updates, output: data };
  },
  logs: async () => {
    let last;
    await fal.subscribe(app, { input: small, logs: true, pollInterval, onQueueUpdate: (u) => (last = u) });
    return last.logs.map((log) => log.message);
  },
  cancel: async () => {
    const busy = [];
    for (let i = 0; i < 2; i++) busy.push((await fal.queue.submit(app, { input: big })).request_id);
    const { request_id: requestId } = await fal.queue.submit(app, { input: small });
    await fal.queue.cancel(app, { requestId });
    for (const one of busy) await fal.queue.cancel(app, { requestId: one });
    return fal.queue.result(app, { requestId }).catch((error) => String(error.status));
  },
  upload: async () => [
    await fal.storage.upload(new File(["from bytes"], "a.txt", { type: "text/plain" })),
    await fal.storage.upload(new File(["from a file"], "b.txt", { type: "text/plain" })),
  ],
  "status stream": async () => {
    const { request_id: requestId } = await fal.queue.submit(app, { input: small });
    const stream = await fal.queue.streamStatus(app, { requestId, logs: true });
    const events = [];
    for await (const event of stream) events.push(event); // 1.2.3 forgets events that came together with the end
    events.push(await stream.done());
    const streamed = await fal.subscribe(app, { input: small, mode: "streaming", logs: true });
    return { events, output: streamed.data };
  },
  stream: async () => {
    const stream = await fal.stream(app, { input: small });
    const events = [];
    for await (const event of stream) events.push(event);
    return [...events, await stream.done()];
  },
  realtime: () => new Promise((resolve, reject) => {
    const connection = fal.realtime.connect(app, { connectionKey: "k" + Math.random(), throttleInterval: 0,
      onResult: (answer) => {
        connection.close();
        resolve({ keys: Object.keys(answer).sort(), image: (answer.images[0].content ?? []).length });
      }, onError: reject });
    connection.send(small);
    setTimeout(() => reject(new Error("no answer within 30 s")), 30000);
  }),
  errors: async () => fal.run(app, { input: { ...small, num_images: 99 } })
    .catch((error) => [error.status, JSON.stringify(error.body)]),
};
globalThis.process?.on("unhandledRejection", () => {}); // of a verb that failed already: the next ones are still asked
const said = {};
for (const verb of VERBS) {
  try { said[verb] = { value: await verbs[verb]() }; }
  catch (error) { said[verb] = { error: `${error.stack ?? error} ${JSON.stringify(error.body ?? null)}` }; }
}
"""
JS_VERBS = (
    "run", "submit", "status", "result", "subscribe", "logs", "cancel", "upload", "status stream", "stream", "realtime",
    "errors",
)  # fmt: skip
PROXY_URL_VERBS = tuple(verb for verb in JS_VERBS if verb != "realtime")  # the client's socket never takes the proxy
PROXY_VERBS = ("run", "submit", "status", "result", "subscribe", "logs", "cancel", "upload", "status stream", "stream")


def js_program(verbs: tuple[str, ...]) -> str:
    constants = {"SMALL": {"prompt": PROMPT, "image_size": "square"}, "BIG": BIG, "VERBS": verbs}
    return "".join(f"const {name} = {json.dumps(value)};\n" for name, value in constants.items()) + JS


@pytest.fixture(scope="session")
def js_said(execute: Program, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Program:
    known: dict[str, dict[str, Any]] = {}

    def said(package: str) -> dict[str, Any]:
        if package not in known:
            folder = tmp_path_factory.mktemp("js")
            (folder / "node_modules").symlink_to(node_modules)
            (folder / "app.mjs").write_text(
                f"import {{ fal }} from {package!r};\n{js_program(JS_VERBS)}"
                "console.log(JSON.stringify(said)); process.exit(0);"
            )
            done = execute("node", "--experimental-websocket", str(folder / "app.mjs"))
            assert done.returncode == 0, done.stderr
            known[package] = json.loads(done.stdout.splitlines()[-1])
        return known[package]

    return said


PACKAGES = {"fal-client-1.2": "@fal-ai/client 1.2.3, Node.js", "@fal-ai/client": "@fal-ai/client 1.10.1, Node.js"}


@pytest.mark.parametrize(
    ("package", "verb"),
    [
        pytest.param(package, verb, marks=pytest.mark.matrix(name, verb))
        for package, name in PACKAGES.items()
        for verb in JS_VERBS
    ],
)
def test_javascript(js_said: Program, check: Callable[[str, Any], None], package: str, verb: str) -> None:
    said = js_said(package)[verb]
    assert "error" not in said, said["error"]
    check(verb, said["value"])


# ---------------------------------------------------------------- the proxy route, from Node.js


@pytest.fixture(scope="session")
def proxy_url_said(server: Any, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same program with one line of configuration and no exec."""
    folder = tmp_path_factory.mktemp("proxy_url")
    (folder / "node_modules").symlink_to(node_modules)
    (folder / "app.mjs").write_text(
        f"""import {{ fal }} from "@fal-ai/client";
        fal.config({{ credentials: "k:s", proxyUrl: {{ url: "{server.url}/api/fal/proxy", when: "always" }} }});
        {js_program(PROXY_URL_VERBS)} console.log(JSON.stringify(said)); process.exit(0);"""
    )
    done = subprocess.run(
        ["node", str(folder / "app.mjs")], capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "verb",
    [pytest.param(v, marks=pytest.mark.matrix("@fal-ai/client 1.10.1, Node.js, proxyUrl", v)) for v in PROXY_URL_VERBS],
)
def test_proxy_url(proxy_url_said: dict[str, Any], check: Callable[[str, Any], None], verb: str) -> None:
    said = proxy_url_said[verb]
    assert "error" not in said, said["error"]
    check(verb, said["value"])


# ---------------------------------------------------------------- a page in a browser

# wss://fal.run is a constant of the client; docs/clients.md has these lines
PAGE_SOCKET = """
const Native = window.WebSocket;
window.WebSocket = class extends Native {
  constructor(url, ...more) { super(String(url).replace("wss://fal.run", "%s"), ...more); }
};
"""


@pytest.fixture(scope="session")
def browser_said(server: Any, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same program in a page of headless Chromium, by way of the proxy route, from another origin."""
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("page")
    (folder / "app.mjs").write_text(
        f"""import {{ fal }} from "@fal-ai/client";
        fal.config({{ proxyUrl: "{server.url}/api/fal/proxy" }});
        {PAGE_SOCKET % server.url.replace("http", "ws", 1)}
        window.answer = (async () => {{ {js_program(JS_VERBS)} return said; }})();"""
    )
    (folder / "node_modules").symlink_to(node_modules)
    bundler = node_modules.resolve() / ".bin" / "esbuild"
    subprocess.run(
        [str(bundler), str(folder / "app.mjs"), "--bundle", "--format=iife", f"--outfile={folder / 'app.js'}"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    (folder / "index.html").write_text("<!doctype html><title>a page</title><script src=app.js></script>")
    pages = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=pages.serve_forever, daemon=True).start()
    hosts: set[str] = set()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page()
            page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
            page.on("websocket", lambda socket: hosts.add(httpx.URL(socket.url).host))
            page.goto(f"http://127.0.0.1:{pages.server_port}/index.html")
            said = page.evaluate("window.answer")
            browser.close()
    finally:
        pages.shutdown()
        pages.server_close()
    return {"said": said, "hosts": hosts}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output is for its results."""


def chromium() -> str:
    import shutil

    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("Chromium is not installed; scripts/test installs it", pytrace=False)


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=pytest.mark.matrix("@fal-ai/client 1.10.1, Chromium", v)) for v in JS_VERBS]
)
def test_browser(browser_said: dict[str, Any], check: Callable[[str, Any], None], verb: str) -> None:
    said = browser_said["said"][verb]
    assert "error" not in said, said["error"]
    check(verb, said["value"])


def test_the_page_asked_nobody_else(browser_said: dict[str, Any]) -> None:
    assert browser_said["hosts"] == {"127.0.0.1"}


# ---------------------------------------------------------------- fal's own proxy in front

PROXY = """
import http from "node:http";
import { fal } from "@fal-ai/client";
import { handleRequest } from "@fal-ai/server-proxy";
const server = http.createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  await handleRequest({
    id: "plain-node", method: request.method,
    respondWith: (status, data) => response.writeHead(status, { "content-type": "application/json" })
      .end(typeof data === "string" ? data : JSON.stringify(data)),
    getHeaders: () => request.headers, getHeader: (name) => request.headers[name.toLowerCase()],
    sendHeader: (name, value) => response.setHeader(name, value),
    getRequestBody: async () => Buffer.concat(chunks).toString() || undefined,
    sendResponse: async (answer) => {
      response.writeHead(answer.status);
      for await (const chunk of answer.body ?? []) response.write(chunk);
      response.end();
    },
  });
}).listen(0, "127.0.0.1");
await new Promise((go) => server.once("listening", go));
const url = `http://127.0.0.1:${server.address().port}/api/fal/proxy`;
fal.config({ credentials: "k:s", proxyUrl: { url, when: "always" } });
"""


@pytest.fixture(scope="session")
def proxied_said(execute: Program, node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Client → @fal-ai/server-proxy → (exec) → impasto."""
    folder = tmp_path_factory.mktemp("proxied")
    (folder / "node_modules").symlink_to(node_modules)
    (folder / "app.mjs").write_text(
        PROXY + js_program(PROXY_VERBS) + "console.log(JSON.stringify(said)); process.exit(0);"
    )
    done = execute("node", "--experimental-websocket", str(folder / "app.mjs"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(v, marks=pytest.mark.matrix("@fal-ai/client behind @fal-ai/server-proxy 1.2.1", v))
        for v in PROXY_VERBS
    ],
)
def test_behind_fals_own_proxy(proxied_said: dict[str, Any], check: Callable[[str, Any], None], verb: str) -> None:
    said = proxied_said[verb]
    assert "error" not in said, said["error"]
    check(verb, said["value"])


# ---------------------------------------------------------------- curl


@pytest.fixture
def curl(server: Any) -> Callable[..., tuple[int, str]]:
    head = ["curl", "-sS", "-m", "60", "-w", "\n%{http_code}", "-H", "Authorization: Key a:b"]

    def ask(path: str, *options: str) -> tuple[int, str]:
        done = subprocess.run(
            [*head, *options, server.url + path],
            capture_output=True, text=True, timeout=90, check=True,
        )  # fmt: skip
        body, _, code = done.stdout.rpartition("\n")
        return int(code), body

    return ask


def _json(data: object) -> list[str]:
    return ["-H", "Content-Type: application/json", "-d", json.dumps(data)]


SMALL = {"prompt": PROMPT, "image_size": "square"}


@pytest.mark.parametrize("cell", [pytest.param(0, marks=[pytest.mark.matrix("curl", v) for v in (
    "run", "submit", "status", "result", "logs", "cancel", "errors")])])  # fmt: skip
def test_curl_lines(curl: Callable[..., tuple[int, str]], check: Callable[[str, Any], None], cell: int) -> None:
    """The lines of fal's documentation, with our address."""
    code, body = curl("/fal-ai/flux-pro", *_json(SMALL))
    assert code == 200
    check("run", json.loads(body))
    code, body = curl("/queue/fal-ai/flux-pro", *_json(SMALL))
    submitted = json.loads(body)
    at = f"/queue/fal-ai/flux-pro/requests/{submitted['request_id']}"
    assert (code, submitted["status"]) == (200, "IN_QUEUE")
    while (answer := curl(f"{at}/status?logs=1"))[0] == 202:
        pass
    assert answer[0] == 200
    check("logs", [log["message"] for log in json.loads(answer[1])["logs"]])
    code, body = curl(at)
    check("result", json.loads(body))
    assert curl(f"{at}/cancel", "-X", "PUT") == (400, '{"status":"ALREADY_COMPLETED"}')
    code, body = curl("/fal-ai/flux-pro", *_json({"prompt": PROMPT, "num_images": 99}))
    check("errors", [code, body])


@pytest.mark.parametrize("verb", [
    pytest.param("status stream", marks=pytest.mark.matrix("curl", "status stream")),
    pytest.param("stream", marks=pytest.mark.matrix("curl", "stream")),
])  # fmt: skip
def test_curl_streams(curl: Callable[..., tuple[int, str]], check: Callable[[str, Any], None], verb: str) -> None:
    def events(text: str) -> list[Any]:
        return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]

    if verb == "stream":
        code, body = curl("/fal-ai/flux-pro/stream", "-N", *_json(SMALL))
        assert code == 200
        check("stream", events(body))
        return
    _, body = curl("/queue/fal-ai/flux-pro", *_json(SMALL))
    code, body = curl(f"/queue/fal-ai/flux-pro/requests/{json.loads(body)['request_id']}/status/stream?logs=1", "-N")
    assert code == 200
    seen = events(body)
    assert [event["status"] for event in seen][-1] == "COMPLETED"
    messages = [log["message"] for event in seen for log in event["logs"] or []]
    assert messages
    assert len(set(messages)) == len(messages), "a status stream tells each line once"


@pytest.fixture(scope="session")
def check(check_output: Program) -> Callable[[str, Any], None]:
    """Whether a verb did what it is for."""

    def judge(verb: str, value: Any) -> None:
        match verb:
            case "run" | "result":
                check_output(value, prompt=PROMPT)
            case "submit":
                assert len(value["id"]) == 36
                check_output(value["output"], prompt=PROMPT)
            case "status":
                assert value[-1] == "Completed"
                assert set(value) <= {"Queued", "InProgress", "Completed"}
            case "subscribe":
                assert value["updates"][-1] in {"Completed", "COMPLETED"}
                check_output(value["output"], prompt=PROMPT)
            case "logs":
                assert value[-1].startswith("Done in")
            case "cancel":
                assert value == "499"
            case "upload":
                assert [httpx.get(url).text for url in value[:2]] == ["from bytes", "from a file"]
                for url in value[2:]:
                    assert httpx.get(url).headers["content-type"] in {"image/jpeg", "image/png"}
            case "status stream":
                assert value["events"][-1]["status"] == "COMPLETED"
                check_output(value["output"], prompt=PROMPT)
            case "stream":
                assert len(value) >= 2
                check_output(value[-1], prompt=PROMPT)
            case "realtime":
                assert {"images", "seed"} <= set(value["keys"])
                assert value["image"] > 100
            case "errors":
                assert value[0] == 422
                assert "num_images" in value[1]
            case _:
                raise AssertionError(f"nothing is known of {verb}")

    return judge
