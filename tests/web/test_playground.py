"""The playground as a person uses it: draw, watch, cancel, upload, mend an error, take the program away."""

import io
import json
import re
from collections.abc import Callable

from PIL import Image
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]


def draw(page: Page, prompt: str = "a red apple") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()


def done(page: Page) -> None:
    expect(page.locator("[data-state=done]")).to_be_visible(timeout=60_000)


def picture(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_prompt_becomes_a_picture_of_the_size_that_was_asked(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="Square 512×512").click()
    draw(page)
    done(page)
    shown = page.locator(".result img")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [512, 512]
    assert shown.get_attribute("alt") == "a red apple"


def test_steps_and_previews_are_seen_while_it_is_drawn(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Inference steps", exact=True).fill("50")
    draw(page, "a slow picture")
    expect(page.locator(".state")).to_have_text(re.compile(r"Drawing, \d+ %"))
    expect(page.locator("img.preview")).to_be_visible()
    halfway = float(page.locator("progress").get_attribute("value") or 0)
    assert 0 < halfway < 1
    done(page)
    page.locator("details.log summary").click()
    expect(page.locator("details.log li").last).to_be_visible()
    assert "step 50/50" in page.locator("details.log").inner_text()


def test_cancel_stops_the_picture_and_the_form_can_be_run_again(visit: Visit) -> None:
    page = visit(expected=(499,))
    page.get_by_label("Inference steps", exact=True).fill("50")
    page.get_by_label("Number of images", exact=True).fill("4")
    draw(page)
    expect(page.locator("[data-state=drawing]")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("[data-state=cancelled]")).to_be_visible()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()


def test_an_error_stands_at_its_field_and_goes_when_the_field_is_mended(visit: Visit) -> None:
    page = visit(expected=(422,))
    page.get_by_label("Inference steps", exact=True).fill("51")
    draw(page)
    wrong = page.locator("[data-field=num_inference_steps] .wrong")
    expect(wrong).to_contain_text("less than or equal to 50")
    expect(page.get_by_label("Inference steps", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Inference steps", exact=True).fill("20")
    expect(wrong).to_have_count(0)


def test_the_same_seed_gives_the_same_picture_and_a_variation_another(visit: Visit) -> None:
    page = visit()
    draw(page)
    done(page)
    sources: list[str] = []
    bytes_ = "image => fetch(image.src).then(r => r.blob()).then(b => b.text())"
    sources.append(page.locator(".result img").evaluate(bytes_))
    for button in ("Same seed", "Variation"):
        before = page.locator(".request-id code").inner_text()
        page.get_by_role("button", name=button).click()
        expect(page.locator(".request-id code")).not_to_have_text(before)
        done(page)
        sources.append(page.locator(".result img").evaluate(bytes_))
    assert sources[0] == sources[1] != sources[2]


def test_a_chosen_file_goes_in_through_the_upload_and_its_url_is_sent(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    page.get_by_label("Choose a picture").set_input_files(
        {"name": "teal.png", "mimeType": "image/png", "buffer": picture()}
    )
    expect(page.locator(".drop img")).to_be_visible()
    assert "/files/b/" in page.get_by_label("Image URL", exact=True).input_value()
    draw(page, "a blue star")
    done(page)


def test_a_pasted_picture_is_taken(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    expect(page.get_by_label("Choose a picture")).to_be_attached()
    page.evaluate(
        """async () => {
          const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
          const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
          const data = new DataTransfer();
          data.items.add(new File([blob], "pasted.png", {type: "image/png"}));
          dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
        }"""
    )
    expect(page.locator(".drop img")).to_be_visible()


def test_a_file_that_is_no_picture_is_refused_at_the_field(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    page.get_by_label("Choose a picture").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"words"}
    )
    expect(page.locator("[data-field=image_url] .wrong")).to_contain_text("no picture")


def test_a_result_becomes_the_input_of_image_to_image(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev")
    draw(page)
    done(page)
    page.get_by_role("button", name="Use as input").click()
    page.wait_for_url("**/models/fal-ai/flux/dev/image-to-image")
    expect(page.locator(".drop img")).to_be_visible()


def test_the_program_follows_the_form_in_every_language(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Prompt", exact=True).fill('say "hi"\nto all')
    page.get_by_label("Inference steps", exact=True).fill("12")
    code = page.locator("[role=tabpanel] pre").last
    for language, written in (
        ("JavaScript", "num_inference_steps: 12"),
        ("Python", '"num_inference_steps": 12'),
        ("Python async", '"num_inference_steps": 12'),
        ("curl", '"num_inference_steps": 12'),
        ("HTTP", '"num_inference_steps": 12'),
    ):
        page.get_by_role("tab", name=language, exact=True).click()
        expect(code).to_contain_text(written)
        expect(code).to_contain_text(r"say \"hi\"\nto all")
    page.get_by_role("tab", name="Python", exact=True).click()
    source = code.inner_text()
    compile(source, "copied.py", "exec")
    page.get_by_role("button", name="Copy: The request in python").click()
    assert page.evaluate("navigator.clipboard.readText()") == source


def test_the_json_tab_shows_what_was_sent_and_what_came_back(visit: Visit) -> None:
    page = visit()
    draw(page, "a yellow star")
    done(page)
    page.get_by_role("tab", name="JSON").click()
    sent, received = (json.loads(text) for text in page.locator("[role=tabpanel] pre").all_inner_texts())
    assert sent["prompt"] == received["prompt"] == "a yellow star"
    assert received["images"][0]["url"].startswith(page.url.rstrip("/") + "/files/")


def test_a_custom_size_is_drawn_and_its_rounding_is_told(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="Custom").click()
    page.get_by_label("Width").fill("500")
    page.get_by_label("Height").fill("300")
    draw(page)
    done(page)
    expect(page.locator(".warning")).to_contain_text("size_rounded")
    assert page.locator(".result img").evaluate("image => image.naturalWidth") == 496


def test_the_form_survives_a_reload_and_a_visit_elsewhere(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("to be kept")
    page.reload()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("to be kept")
    page.get_by_role("link", name="Models").first.click()
    page.get_by_role("link", name="Playground").first.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("to be kept")


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    page = visit()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the page")).to_be_focused()
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.type("a green frog")
    page.keyboard.press("Control+Enter")
    done(page)
    page.get_by_role("button", name="Show it large").press("Enter")
    expect(page.locator("dialog.large")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.large")).to_have_count(0)


def test_several_pictures_are_shown_side_by_side(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Number of images", exact=True).fill("3")
    page.get_by_label("Inference steps", exact=True).fill("2")
    draw(page)
    done(page)
    expect(page.locator(".result figure img")).to_have_count(3)
