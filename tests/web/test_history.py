"""What the server keeps is there after a reload and a restart, and gone when it is deleted; keys and the dashboard."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]


def run(url: str, prompt: str, *, endpoint: str = "fal-ai/flux-pro", **more: Any) -> dict[str, Any]:
    """A sync run by a program; the answer of one that fails, too."""
    asked = urllib.request.Request(
        f"{url}/{endpoint}",
        data=json.dumps({"prompt": prompt, "num_inference_steps": 2, **more}).encode(),
        headers={"Content-Type": "application/json", "Authorization": "Key local:local"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def kept(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with a past of its own."""
    server = serve(tmp_path_factory.mktemp("past"))
    run(server.url, "a red apple")
    run(server.url, "a yellow star", endpoint="fal-ai/flux/dev")
    run(server.url, "a red rocket", num_images=2)
    yield server
    assert server.stop() == 0


def test_past_requests_are_listed_newest_first_with_their_pictures(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    prompts = page.locator(".card b")
    expect(prompts).to_have_count(3)
    assert prompts.all_inner_texts() == ["a red rocket", "a yellow star", "a red apple"]
    for image in page.locator(".card img").all():
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0


def test_they_are_found_by_endpoint_outcome_and_words(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    prompts = page.locator(".card b")
    page.get_by_label("Prompt").fill("RED")
    expect(prompts).to_have_text(["a red rocket", "a red apple"])
    page.get_by_label("Endpoint").select_option("fal-ai/flux/dev")
    expect(page.get_by_text("Nothing yet")).to_be_visible()
    page.get_by_label("Prompt").fill("")
    expect(prompts).to_have_text(["a yellow star"])
    page.get_by_label("Outcome").select_option("Failed")
    expect(page.get_by_text("Nothing yet")).to_be_visible()


def test_one_shows_input_output_log_and_times_and_survives_a_restart(visit: Visit, kept: Any) -> None:
    kept.restart()
    page = visit("/history", origin=kept.url)
    page.get_by_role("link", name="a red rocket").click()
    expect(page.locator("figure img")).to_have_count(2)
    input_, output = (json.loads(text) for text in page.locator("pre").all_inner_texts()[:2])
    assert input_["num_images"] == 2
    assert len(output["images"]) == 2
    page.locator("details.log summary").click()
    expect(page.locator("details.log")).to_contain_text("step 2/2")
    expect(page.get_by_text("Attempts")).to_be_visible()


def test_one_is_run_again_with_the_same_seed(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    page.get_by_role("link", name="a red apple").click()
    seed = json.loads(page.locator("pre").nth(1).inner_text())["seed"]
    page.get_by_role("button", name="With the same seed").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red apple")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(seed))


def test_a_deleted_one_loses_its_pictures_on_the_disk(visit: Visit, kept: Any) -> None:
    output = run(kept.url, "to be forgotten")
    blob = kept.folder / "files" / output["images"][0]["url"].partition("/files/")[2]
    assert blob.exists()
    page = visit("/history", origin=kept.url)
    page.get_by_role("link", name="to be forgotten").click()
    page.get_by_role("button", name="Delete").click()
    assert blob.exists()  # one click asks
    page.get_by_role("button", name="Really delete it").click()
    page.wait_for_url("**/history")
    expect(page.locator(".card b").first).not_to_have_text("to be forgotten")
    assert not blob.exists()


def test_the_dashboard_shows_running_work_runners_and_what_was_drawn(visit: Visit, kept: Any) -> None:
    page = visit("/dashboard", origin=kept.url)
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.get_by_role("row", name="runner-1")).to_contain_text("cpu")
    expect(page.get_by_role("img", name="Pictures an hour, at most")).to_be_visible()
    watched = visit("/", origin=kept.url)
    watched.get_by_label("Inference steps", exact=True).fill("50")
    watched.get_by_label("Number of images", exact=True).fill("4")
    watched.get_by_label("Prompt", exact=True).fill("a long one")
    watched.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("progress")).to_be_visible()
    expect(watched.locator("[data-state=done]")).to_be_visible(timeout=60_000)


@pytest.fixture(scope="module")
def locked(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A server that asks for keys, and an ADMIN one."""
    folder: Path = tmp_path_factory.mktemp("locked")
    command = [sys.executable, "-m", "impasto.cli", "keys", "create", "boss", "--scope", "ADMIN", "--data", str(folder)]
    key = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    server = serve(folder, IMPASTO_AUTH_MODE="keys")
    yield server, key
    assert server.stop() == 0


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_browser(visit: Visit, locked: tuple[Any, str]) -> None:
    server, key = locked
    page = visit("/", origin=server.url, expected=(401,))
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("This server asks for a key.")).to_be_visible()
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Save").click()
    page.get_by_role("button", name="Key set").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=60_000)
    page.reload()
    expect(page.get_by_role("button", name="Key set")).to_be_visible()


def test_keys_are_made_shown_once_and_revoked(visit: Visit, locked: tuple[Any, str]) -> None:
    server, key = locked
    page = visit("/dashboard", origin=server.url, expected=(401,))
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Save").click()
    page.get_by_label("Name of a new key").fill("for ci")
    page.get_by_role("button", name="Create").click()
    made = page.get_by_text("Shown this once:").locator("code").inner_text()
    headers = {"Authorization": f"Key {made}"}
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/requests", headers=headers), timeout=60):
        pass
    row = page.get_by_role("row", name="for ci")
    row.get_by_role("button", name="Revoke").click()
    row.get_by_role("button", name="Really revoke").click()
    expect(row).to_have_count(0)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/requests", headers=headers), timeout=60)
