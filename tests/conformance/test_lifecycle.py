"""Lifetimes and ACLs as fal's own clients ask for them, and what readers with and without keys get."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from conftest import IMPASTO, PATIENCE, environment

Program = Callable[..., Any]
SMALL = {"prompt": "a red apple", "image_size": "square"}


@pytest.fixture(scope="module")
def keys(locked_server: tuple[Any, str]) -> tuple[Any, str, str]:
    """(server, Alice's key, Bob's key)"""
    server, alice = locked_server
    command = [*IMPASTO, "keys", "create", "bob", "--data", str(server.folder)]
    made = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=True)
    return server, alice, made.stdout.strip()


def statuses(url: str, *keys: str | None) -> list[int]:
    return [httpx.get(url, headers={} if key is None else {"Authorization": f"Key {key}"}).status_code for key in keys]


def seconds_left(url: str, key: str) -> int:
    """What `max-age` says of a public file."""
    told = httpx.get(url, headers={"Authorization": f"Key {key}"}).headers["cache-control"]
    found = re.search(r"public, max-age=(\d+)", told)
    assert found, told
    return int(found[1])


def until_gone(server: Any, url: str) -> None:
    """The URL is 404, and the bytes are off the disk."""
    blob: Path = server.folder / "files" / httpx.URL(url).path.removeprefix("/files/")
    deadline = time.monotonic() + PATIENCE
    while blob.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not blob.exists()
    assert httpx.get(url).status_code == 404


def test_python_uploads_with_a_lifecycle(python: Program, keys: tuple[Any, str, str], tmp_path: Path) -> None:
    server, alice, bob = keys
    file = tmp_path / "notes.txt"
    file.write_text("kept in a file")
    said = python(
        f"""
        import asyncio, fal_client
        from fal_client import StorageACL, StorageACLRule, StorageSettings
        rules = [StorageACLRule(user={bob.partition(":")[0]!r}, decision="allow")]
        shared = StorageSettings(expires_in="1d", initial_acl=StorageACL(default="forbid", rules=rules))
        hidden = StorageSettings(initial_acl=StorageACL(default="hide"))
        out({{"day": fal_client.upload_file({str(file)!r}, lifecycle=StorageSettings(expires_in="1d")),
             "shared": fal_client.upload_file({str(file)!r}, lifecycle=shared),
             "hidden": fal_client.upload(b"x", "text/plain", lifecycle=hidden),
             "gcs": fal_client.upload(b"x", "text/plain", repository="fal", lifecycle=hidden),
             "async": asyncio.run(fal_client.upload_async(b"x", "text/plain", lifecycle=hidden)),
             "soon": fal_client.upload(b"x", "text/plain", lifecycle=StorageSettings(expires_in=1)),
             "never": fal_client.upload(b"x", "text/plain", lifecycle=StorageSettings(expires_in="never"))}})
        """,
        url=server.url,
        variables={"FAL_KEY": alice},
    )
    assert 86_000 < seconds_left(said["day"], alice) <= 86_400
    assert seconds_left(said["never"], alice) == 365 * 86_400
    assert statuses(said["shared"], alice, bob, None) == [200, 200, 403]
    for name in ("hidden", "gcs", "async"):
        assert statuses(said[name], alice, bob, None) == [200, 404, 404]
    until_gone(server, said["soon"])


def test_python_asks_for_its_pictures(python: Program, keys: tuple[Any, str, str]) -> None:
    server, alice, bob = keys
    said = python(
        f"""
        import fal_client, json
        def header(**body): return {{"X-Fal-Object-Lifecycle-Preference": json.dumps(body)}}
        app, hidden = "fal-ai/flux-pro", header(initial_acl={{"default": "hide"}})
        def url(output): return output["images"][0]["url"]
        out({{"run": url(fal_client.run(app, arguments={SMALL!r}, headers=hidden)),
             "subscribe": url(fal_client.subscribe(app, arguments={SMALL!r}, headers=hidden)),
             "soon": url(fal_client.run(app, arguments={SMALL!r}, headers=header(expiration_duration_seconds=1))),
             "hour": url(fal_client.run(app, arguments={SMALL!r}, headers=header(expiration_duration_seconds=3600))),
             "unstored": url(fal_client.run(app, arguments={SMALL!r}, headers={{"X-Fal-Store-IO": "0"}}))}})
        """,
        url=server.url,
        variables={"FAL_KEY": alice},
    )
    for name in ("run", "subscribe"):
        assert statuses(said[name], alice, bob, None) == [200, 404, 404]
    assert 3500 < seconds_left(said["hour"], alice) <= 3600
    assert 500 < seconds_left(said["unstored"], alice) <= 600
    until_gone(server, said["soon"])


def test_javascript_asks_for_uploads_and_pictures(node: Program, keys: tuple[Any, str, str]) -> None:
    server, alice, bob = keys
    said = node(
        f"""
        const input = {{ prompt: "a red apple", image_size: "square" }};
        const user = "{bob.partition(":")[0]}";
        const shared = {{ default: "hide", rules: [{{ user, decision: "allow" }}] }};
        const file = () => new File(["bytes"], "a.txt", {{ type: "text/plain" }});
        const url = (result) => result.data.images[0].url;
        const app = "fal-ai/flux-pro", storageSettings = {{ expiresIn: "1h", initialAcl: {{ default: "forbid" }} }};
        out({{
          hour: await fal.storage.upload(file(), {{ lifecycle: {{ expiresIn: "1h" }} }}),
          shared: await fal.storage.upload(file(), {{ lifecycle: {{ initialAcl: shared }} }}),
          soon: await fal.storage.upload(file(), {{ lifecycle: {{ expiresIn: 1 }} }}),
          run: url(await fal.run(app, {{ input, storageSettings }})),
          subscribe: url(await fal.subscribe(app, {{ input, storageSettings, pollInterval: 50 }})),
          day: url(await fal.run(app, {{ input, storageSettings: {{ expiresIn: "1d" }} }})),
        }});
        """,
        url=server.url,
        variables={"FAL_KEY": alice},
    )
    assert 3500 < seconds_left(said["hour"], alice) <= 3600
    assert 86_000 < seconds_left(said["day"], alice) <= 86_400
    assert statuses(said["shared"], alice, bob, None) == [200, 200, 404]
    for name in ("run", "subscribe"):
        assert statuses(said[name], alice, bob, None) == [200, 403, 403]
    until_gone(server, said["soon"])


def test_a_hidden_upload_is_an_input_of_its_owner_only(python: Program, keys: tuple[Any, str, str]) -> None:
    server, alice, bob = keys
    url = python(
        """
        import fal_client, io
        from PIL import Image
        from fal_client import StorageACL, StorageSettings
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, "PNG")
        hidden = StorageSettings(initial_acl=StorageACL(default="hide"))
        out(fal_client.upload(buffer.getvalue(), "image/png", lifecycle=hidden))
        """,
        url=server.url,
        variables={"FAL_KEY": alice},
    )
    source = f"""
        import fal_client
        try:
            fal_client.run("fal-ai/flux/dev/image-to-image", arguments={{"prompt": "x", "image_url": {url!r}}})
            out("drawn")
        except fal_client.FalClientHTTPError as error:
            out([error.status_code, error.message[0]["type"]])
        """
    assert python(source, url=server.url, variables={"FAL_KEY": alice}) == "drawn"
    assert python(source, url=server.url, variables={"FAL_KEY": bob}) == [422, "file_download_error"]
