"""What the server keeps is there after a reload and a restart, found again, and gone when it is deleted."""

import json
import re
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


def submit(url: str, prompt: str, **more: Any) -> str:
    """Through the queue; → the request id."""
    return run(url, prompt, endpoint="queue/fal-ai/flux-pro", **more)["request_id"]


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


def test_the_list_asks_for_little_of_large_requests_and_the_opened_one_for_all(
    visit: Visit, serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(tmp_path, IMPASTO_MODEL_FAKE_STEP_SECONDS="0")
    try:
        words = "a heron " * 60
        made = run(server.url, words, sync_mode=True, num_images=2)
        assert made["images"][0]["url"].startswith("data:")
        run(server.url, "a red apple")
        page = visit("/history", origin=server.url)
        with page.expect_response("**/v1/requests?**") as listed:
            page.get_by_role("button", name="Refresh").click()
        assert "payloads" not in listed.value.url
        assert len(listed.value.body()) < 3000
        first, second = (row["summary"] for row in listed.value.json()["items"])
        assert first["picture"].startswith(server.url)
        assert (first["prompt"], first["pictures"], first["kept"]) == ("a red apple", 1, True)
        assert second == {"prompt": words[:200], "picture": None, "pictures": 2, "kept": True}
        expect(page.locator(".card img")).to_have_count(2)
        made = page.get_by_role("link", name="a heron").locator("img")
        expect(made).to_have_attribute("src", re.compile("^data:image/jpeg;base64,"))
        assert 0 < made.evaluate("image => image.naturalWidth") <= 480
        thumbnail = page.get_by_role("link", name="a red apple").locator("img")
        expect(thumbnail).to_have_attribute("loading", "lazy")
        expect(thumbnail).to_have_attribute("decoding", "async")
        page.get_by_role("link", name="a heron").click()
        expect(page.locator("figure img")).to_have_count(2)
        assert json.loads(page.locator("pre").first.inner_text())["prompt"] == words
        page.close()  # it asks the server as long as it is open
    finally:
        server.stop()


def test_they_are_found_by_endpoint_outcome_and_words(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    prompts = page.locator(".card b")
    page.get_by_label("Prompt").fill("RED")
    expect(prompts).to_have_text(["a red rocket", "a red apple"])
    page.get_by_label("Endpoint").select_option("fal-ai/flux/dev")
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    page.get_by_label("Prompt").fill("")
    expect(prompts).to_have_text(["a yellow star"])
    page.get_by_label("Outcome").select_option("Failed")
    expect(page.get_by_text("Nothing matches")).to_be_visible()


def test_one_shows_input_output_log_and_times_and_survives_a_restart(visit: Visit, kept: Any) -> None:
    kept.restart()
    page = visit("/history", origin=kept.url)
    page.get_by_role("link", name="a red rocket").click()
    expect(page.get_by_role("button", name="a red rocket", exact=True)).to_have_count(2)
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


def test_filters_stand_in_the_address_and_outlive_a_reload(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    page.get_by_label("Prompt").press_sequentially("red ro")
    page.get_by_label("Endpoint").select_option("fal-ai/flux-pro")
    expect(page.locator(".card b")).to_have_text(["a red rocket"])
    expect(page).to_have_url(re.compile(r"(?=.*endpoint_id=.)(?=.*q=red\+ro)"))
    page.reload()
    expect(page.locator(".card b")).to_have_text(["a red rocket"])
    expect(page.get_by_label("Prompt")).to_have_value("red ro")
    expect(page.get_by_label("Endpoint")).to_have_value("fal-ai/flux-pro")


def test_a_long_past_comes_in_pages(visit: Visit, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(tmp_path, IMPASTO_MODEL_FAKE_STEP_SECONDS="0")
    try:
        for n in range(26):
            submit(server.url, f"number {n}")
        page = visit("/history", origin=server.url)
        expect(page.locator(".card")).to_have_count(24)
        expect(page.locator(".card b").first).to_have_text("number 25")
        page.get_by_role("button", name="Older").click()
        expect(page.locator(".card b")).to_have_text(["number 1", "number 0"])
        page.get_by_role("button", name="Newer").click()
        expect(page.locator(".card")).to_have_count(24)
        page.close()  # it asks the server as long as it is open
    finally:
        server.stop()


def test_what_is_being_drawn_comes_by_itself(visit: Visit, kept: Any) -> None:
    page = visit("/history", origin=kept.url)
    expect(page.locator(".card").first).to_be_visible()
    request_id = submit(kept.url, "in the making", num_inference_steps=50, num_images=4)
    page.goto(f"/history/{request_id}")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.locator("figure img")).to_have_count(4)


def test_what_is_being_drawn_can_be_stopped(visit: Visit, serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(tmp_path, IMPASTO_MODEL_FAKE_STEP_SECONDS="0.3")
    try:
        request_id = submit(server.url, "never finished", num_inference_steps=50)
        page = visit(f"/history/{request_id}", origin=server.url)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("cancelled", exact=False).first).to_be_visible(timeout=10_000)
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        page.close()  # it asks the server as long as it is open
    finally:
        server.stop()


def test_a_refused_one_says_why_in_words(visit: Visit, kept: Any) -> None:
    request_id = submit(kept.url, "too many steps", num_inference_steps=400)
    page = visit(f"/history/{request_id}", origin=kept.url)
    expect(page.locator(".trouble")).to_contain_text("num_inference_steps: Input should be less than or equal to 50")


def test_a_past_picture_becomes_an_input_with_its_prompt(visit: Visit, kept: Any) -> None:
    page = visit("/history?q=rocket", origin=kept.url)
    page.get_by_role("link", name="a red rocket").click()
    page.get_by_role("button", name="Use as input").first.click()
    expect(page.locator(".drop img")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red rocket")


def test_a_request_that_is_gone_says_so_under_a_heading(visit: Visit, kept: Any) -> None:
    page = visit("/history/00000000-0000-0000-0000-000000000000", origin=kept.url)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("no such request")
