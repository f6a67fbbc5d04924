"""Method shim: what a Python or Node.js program says to fal's hosts reaches the server, and nothing else is touched."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.server import ServerConnection, serve

from impasto.client import ca

Execute = Callable[..., subprocess.CompletedProcess[str]]
Python = Callable[..., dict[str, object]]

PYTHON_WAYS = {
    "httpx": "import httpx; said = httpx.post(U, json=B).json()",
    "httpx client": "import httpx\nwith httpx.Client(base_url=U[:21]) as c: said = c.post(U[21:], json=B).json()",
    "httpx async": (
        "import httpx, asyncio\nasync def m():\n  async with httpx.AsyncClient() as c: return await c.post(U, json=B)\n"
        "said = asyncio.run(m()).json()"
    ),
    "httpx without environment": "import httpx; said = httpx.Client(trust_env=False).post(U, json=B).json()",
    "requests": "import requests; said = requests.post(U, json=B).json()",
    "requests session": "import requests; said = requests.Session().post(U, json=B).json()",
    "urllib": "import urllib.request as r; said = json.load(r.urlopen(U, json.dumps(B).encode()))",
    "urllib request": (
        "import urllib.request as r\n"
        "said = json.load(r.urlopen(r.Request(U, json.dumps(B).encode(), {'Host': 'queue.fal.run'})))"
    ),
}
NODE_WAYS = {
    "fetch": "said = await (await fetch(U, {method: 'POST', body: B})).json()",
    "fetch URL": "said = await (await fetch(new URL(U), {method: 'POST', body: B})).json()",
    "fetch Request": "said = await (await fetch(new Request(U, {method: 'POST', body: B}))).json()",
    "https url": "said = await read((done) => https.request(U, {method: 'POST'}, done).end(B))",
    "https options": (
        "const agent = new https.Agent({keepAlive: false}), headers = {Host: 'queue.fal.run'};\n"
        "const options = {hostname: 'queue.fal.run', path: U.slice(21), method: 'POST', headers, agent};\n"
        "said = await read((done) => https.request(options, done).end(B))"
    ),
    "https URL and options": (
        "const options = {path: U.slice(21), method: 'POST'};\n"
        "said = await read((done) => https.request('https://queue.fal.run/nowhere', options, done).end(B))"
    ),
    "https named import": "said = await read((done) => request(U, {method: 'POST'}, done).end(B))",
}
URL = "https://queue.fal.run/fal-ai/flux-pro?a=b%20c"


def check(said: dict[str, object], server: str) -> None:
    assert said["method"] == "POST"
    assert said["path"] == "/@queue.fal.run/fal-ai/flux-pro?a=b%20c"
    assert json.loads(str(said["body"])) == {"a": 1}
    assert said["headers"]["host"] == server.removeprefix("http://")  # type: ignore[index]


@pytest.mark.parametrize("way", PYTHON_WAYS)
def test_python_reaches_the_server(python: Python, server: str, way: str) -> None:
    check(python(f"import json; U = {URL!r}; B = {{'a': 1}}\n{PYTHON_WAYS[way]}\nprint(json.dumps(said))"), server)


@pytest.mark.parametrize("way", NODE_WAYS)
def test_node_reaches_the_server(execute: Execute, server: str, way: str, tmp_path: Path) -> None:
    file = tmp_path / "app.mjs"
    file.write_text(
        "import https, { request } from 'node:https';\n"
        f"const U = {json.dumps(URL)}, B = '{{\"a\":1}}'; let said;\n"
        "const read = (start) => new Promise((resolve, reject) => start(async (answer) => {\n"
        "  let text = ''; for await (const chunk of answer) text += chunk;\n"
        "  resolve(JSON.parse(text)); }).on('error', reject));\n"
        f"{NODE_WAYS[way]};\nconsole.log(JSON.stringify(said));"
    )
    done = execute("node", str(file))
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout), server)


@pytest.mark.parametrize(
    "way",
    [
        "require('tls').connect(443, 'queue.fal.run', {})",
        "require('tls').connect({port: 443, host: 'queue.fal.run'})",
        "require('http2').connect('https://queue.fal.run')",
    ],
)
def test_another_way_to_fal_fails_in_node_with_a_message_that_says_so(execute: Execute, way: str) -> None:
    done = execute("node", "-e", f"{way}.on('error', (error) => {{ console.log(error.message); process.exit(); }})")
    assert "run it with `impasto exec --method connect`" in done.stdout, done.stderr


PLACES = {
    "https://fal.run/fal-ai/flux-pro": "/@fal.run/fal-ai/flux-pro",
    "https://queue.fal.run:443/fal-ai/flux-pro": "/@queue.fal.run/fal-ai/flux-pro",
    "https://queue.falrun.com/fal-ai/flux-pro": "/@queue.falrun.com/fal-ai/flux-pro",
    "https://rest.fal.ai/tokens/": "/@rest.fal.ai/tokens/",
    "https://rest.alpha.fal.ai/tokens/": "/@rest.alpha.fal.ai/tokens/",
    "https://v3.fal.media/files/b/1/x.png": "/@v3.fal.media/files/b/1/x.png",
    "https://fal.run": "/@fal.run/",
    "https://FAL.run/x?y=1%2F2&z": "/@fal.run/x?y=1%2F2&z",
}


def test_every_host_has_its_place_in_python(python: Python) -> None:
    source = f"import httpx, json; print(json.dumps({{u: httpx.get(u).json()['path'] for u in {list(PLACES)}}}))"
    assert python(source) == PLACES


def test_every_host_has_its_place_in_node(execute: Execute) -> None:
    source = (
        f"(async () => {{ const said = {{}}; for (const url of {json.dumps(list(PLACES))}) "
        "said[url] = (await (await fetch(url)).json()).path; console.log(JSON.stringify(said)); })()"
    )
    done = execute("node", "-e", source)
    assert json.loads(done.stdout) == PLACES, done.stderr


def test_a_prefix_of_the_servers_url_is_kept(server: str) -> None:
    """Behind a reverse proxy the server may have a path; the shim joins it."""
    source = "import httpx; print(httpx.get('https://queue.fal.run/x').text)"
    shim = str(Path(ca.__file__).parent / "shims" / "python")
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={"PYTHONPATH": shim, "FAL_BASE_URL": f"{server}/prefix/"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout)["path"] == "/prefix/@queue.fal.run/x"


GUARD = """
const dns = require('node:dns'), https = require('node:https'), { BlockList } = require('node:net');
const url = new URL('https://v3.fal.media/files/b/1/x.png'), blocked = new BlockList();
blocked.addSubnet('127.0.0.0', 8, 'ipv4'); blocked.addAddress('::1', 'ipv6'); blocked.addSubnet('fc00::', 7, 'ipv6');
const pinned = (name, options, done) => (name === url.hostname ? done(null, found) : done(new Error(name + ' is new')));
let found;
dns.promises.lookup(url.hostname, { all: true }).then((addresses) => {
  found = addresses;
  const bad = found.filter(({ address, family }) => blocked.check(address, `ipv${family}`));
  if (bad.length) throw new Error('private: ' + JSON.stringify(bad));
  https.get(url, { lookup: pinned }, async (answer) => {
    let text = ''; for await (const chunk of answer) text += chunk;
    console.log(JSON.parse(text).path);
  });
  dns.lookup('fal.run', (error, address, family) => console.log(family, blocked.check(address, `ipv${family}`)));
});
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_guard_that_looks_a_name_up_and_pins_its_address_lets_fals_files_pass(
    execute: Execute, server: str, host: str
) -> None:
    """As next/image and other frameworks guard what they fetch; no look-up of fal's names leaves the program."""
    done = execute("node", "-e", GUARD, url=server.replace("127.0.0.1", host))
    assert sorted(done.stdout.splitlines()) == ["/@v3.fal.media/files/b/1/x.png", "6 false"], done.stderr


def test_file_urls_on_fals_hosts_are_asked_for_by_an_option(
    impasto_exec: Callable[..., list[str]], clean: dict[str, str]
) -> None:
    source = "import httpx; print(httpx.get('https://fal.run/x').json()['path'])"
    script = "fetch('https://fal.run/x').then((r) => r.json()).then((j) => console.log(j.path))"
    for program in ([sys.executable, "-c", source], ["node", "-e", script]):
        command = impasto_exec(*program)
        command[command.index("exec") + 1 : command.index("exec") + 1] = ["--file-urls", "fal"]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "/@fal.run+files/x\n", done.stderr


@pytest.fixture(scope="module")
def echo_socket() -> Iterator[str]:
    """A WebSocket server that answers with the path it was opened at; it also answers the probe."""

    def probe(connection: ServerConnection, request: object) -> object:
        if request.path == "/healthz":  # type: ignore[attr-defined]
            answer = connection.respond(200, '{"status": "ok", "version": "0"}')
            return answer
        return None

    def handle(connection: ServerConnection) -> None:
        for message in connection:
            assert connection.request is not None
            connection.send(f"{connection.request.path} {message!r}")

    with serve(handle, "127.0.0.1", 0, process_request=probe) as running:  # type: ignore[arg-type]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()
        thread.join()


def test_websockets_reach_the_server(execute: Execute, echo_socket: str) -> None:
    source = (
        "import asyncio, websockets\nfrom websockets.sync import client\n"
        "U = 'wss://fal.run/fal-ai/flux-pro/realtime?fal_jwt_token=t'\n"
        "with client.connect(U) as c: c.send(b'1'); print(c.recv())\n"
        "async def main():\n  async with websockets.connect(U) as c: await c.send('2'); print(await c.recv())\n"
        "asyncio.run(main())"
    )
    for method in ("shim", "connect"):
        done = execute(sys.executable, "-c", source, url=echo_socket, method=method)
        assert done.returncode == 0, done.stderr
        path = ("/@fal.run" if method == "shim" else "") + "/fal-ai/flux-pro/realtime?fal_jwt_token=t"
        assert done.stdout.splitlines() == [f"{path} b'1'", f"{path} '2'"]


def test_requests_of_two_event_loops_of_one_client_do_not_meet(python: Python) -> None:
    """fal_client keeps one async client for the whole program; at fal its hosts have connections of their own."""
    source = (
        "import asyncio, httpx, json\nclient = httpx.AsyncClient()\n"
        "async def one(): return (await client.get('https://rest.fal.ai/one')).json()['path']\n"
        "async def two(): return (await client.get('https://queue.fal.run/two')).json()['path']\n"
        "print(json.dumps([asyncio.run(one()), asyncio.run(two())]))"
    )
    assert python(source) == ["/@rest.fal.ai/one", "/@queue.fal.run/two"]


def test_a_library_that_the_shim_does_not_know_fails_and_says_why(execute: Execute, server: str) -> None:
    done = execute(
        sys.executable, "-c", "import http.client; http.client.HTTPSConnection('queue.fal.run').request('GET', '/')"
    )
    assert done.returncode == 1
    assert f"impasto: this program's way to queue.fal.run is not one that the shim leads to {server}" in done.stderr
    done = execute(
        "node",
        "-e",
        "require('node:tls').connect({host: 'fal.run', port: 443}).on('error', (e) => console.log(e.message))",
    )
    assert done.stdout.startswith("impasto: this program's way to fal.run is not one"), done.stderr
    assert "--method connect" in done.stdout


def test_child_processes_and_worker_threads_are_led_too(execute: Execute, tmp_path: Path) -> None:
    child = "import httpx; print(httpx.get('https://fal.run/x').text)"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert json.loads(execute(sys.executable, "-c", source).stdout)["path"] == "/@fal.run/x"
    file = tmp_path / "app.cjs"
    file.write_text(
        "const { Worker } = require('node:worker_threads'); const { execFileSync } = require('node:child_process');\n"
        "const code = \"fetch('https://fal.run/y').then((r) => r.json()).then((j) => console.log(j.path))\";\n"
        "process.stdout.write(execFileSync(process.execPath, ['-e', code]));\n"
        "new Worker(code, { eval: true });"
    )
    assert execute("node", str(file)).stdout == "/@fal.run/y\n/@fal.run/y\n"


def test_modules_keep_their_own_loader(python: Python) -> None:
    source = (
        "import json, importlib.resources, inspect, httpx\n"
        "print(json.dumps([type(httpx.__loader__).__name__, type(httpx.__spec__.loader).__name__, "
        "importlib.resources.files(httpx).joinpath('py.typed').is_file(), len(inspect.getsource(httpx)) > 0]))"
    )
    assert python(source) == ["SourceFileLoader", "SourceFileLoader", True, True]


def test_the_programs_own_sitecustomize_still_runs(python: Python, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.mark = __name__ + ' ' + __file__")
    source = (
        "import sitecustomize, httpx, json\n"
        "print(json.dumps([mark, sitecustomize.__file__, httpx.get('https://fal.run/x').json()['path']]))"
    )
    own = str(tmp_path / "sitecustomize.py")
    assert python(source, variables={"PYTHONPATH": str(tmp_path)}) == [f"sitecustomize {own}", own, "/@fal.run/x"]


def test_the_programs_own_node_options_still_hold(execute: Execute, tmp_path: Path) -> None:
    file = tmp_path / "with blank.cjs"
    file.write_text("globalThis.mark = 'kept'")
    source = "fetch('https://fal.run/x').then((r) => r.json()).then((j) => console.log(mark, j.path))"
    done = execute("node", "-e", source, variables={"NODE_OPTIONS": f'--require "{file}" --no-deprecation'})
    assert done.stdout == "kept /@fal.run/x\n", done.stderr


def test_shim_in_a_folder_with_blanks_and_quotes_loads(server: str, clean: dict[str, str], tmp_path: Path) -> None:
    """Where impasto is installed is not ours to choose."""
    from impasto.client import environment

    folder = tmp_path / 'a "b" c\\d'
    shutil.copytree(environment.SHIMS, folder)
    option = environment._node_options(folder / "node" / "shim.cjs", {})
    done = subprocess.run(
        ["node", "-e", "fetch('https://fal.run/x').then((r) => r.json()).then((j) => console.log(j.path))"],
        env={**clean, "NODE_OPTIONS": option, "FAL_BASE_URL": server},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "/@fal.run/x\n", done.stderr


@pytest.fixture
def elsewhere(tmp_path: Path, echo_server: Callable[..., object]) -> tuple[str, Path]:
    """An https server that has nothing to do with fal, and the authority it is trusted by."""
    foreign = ca.ensure(tmp_path / "foreign")
    running = echo_server("elsewhere", foreign.server_context())
    return f"https://localhost:{running.port}/x", foreign.certificate  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["httpx", "httpx async", "requests", "urllib"])
def test_fal_is_reached_past_a_proxy_of_the_programs_own(python: Python, server: str, way: str) -> None:
    """A company's proxy, dead here, would refuse our loopback address."""
    proxy = "http://127.0.0.1:9"
    variables = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"), proxy)
    source = f"import json; U = {URL!r}; B = {{'a': 1}}\n{PYTHON_WAYS[way]}\nprint(json.dumps(said))"
    check(python(source, variables=variables), server)


def test_other_hosts_still_go_by_way_of_the_programs_own_proxy(execute: Execute) -> None:
    source = "import httpx\ntry: httpx.get('https://example.invalid')\nexcept httpx.ConnectError as e: print(e)"
    done = execute(sys.executable, "-c", source, variables={"HTTPS_PROXY": "http://127.0.0.1:9"})
    assert "Connection refused" in done.stdout  # by the proxy's port: without the proxy the name would not resolve


@pytest.mark.parametrize("method", ["shim", "connect"])
def test_other_https_is_left_alone(execute: Execute, elsewhere: tuple[str, Path], method: str) -> None:
    """Reached as without exec, trusted by the program's own authority, refused without it."""
    url, certificate = elsewhere
    python = f"import httpx; print(httpx.get({url!r}).json()['name'])"
    node = f"fetch({url!r}).then((r) => r.json()).then((j) => console.log(j.name), () => process.exit(1))"
    trust = {
        "SSL_CERT_FILE": str(certificate),
        "NODE_EXTRA_CA_CERTS": str(certificate),
        "CURL_CA_BUNDLE": str(certificate),
    }
    for command in ([sys.executable, "-c", python], ["node", "-e", node]):
        done = execute(*command, method=method, variables=trust)
        assert (done.stdout, done.returncode) == ("elsewhere\n", 0), done.stderr
        done = execute(*command, method=method)
        assert done.returncode == 1
    done = execute("curl", "-s", url, method=method, variables=trust)
    assert json.loads(done.stdout)["name"] == "elsewhere"
    assert execute("curl", "-s", url, method=method).returncode == 60  # curl: certificate not trusted
