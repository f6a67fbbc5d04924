"""The playground as a person uses it: draw, watch, cancel, upload, paint a mask, mend errors, take the program away."""

import io
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Error, Page, expect

Visit = Callable[..., Page]
Hold = Callable[..., Any]
UPLOAD = "**/storage/upload/initiate*"


def draw(page: Page, prompt: str = "a red apple") -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()


def done(page: Page) -> None:
    expect(page.locator("[data-state=done]")).to_be_visible()


def picture(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


FILE: Any = {"name": "in.png", "mimeType": "image/png", "buffer": picture()}

# What the page shows of a picture in the making, noted at every change: a look from outside may come too late.
NOTE = """() => {
  const shown = (selector) => document.querySelector(selector);
  window.noted = [];
  new MutationObserver(() => window.noted.push({
    title: document.title,
    state: shown(".state")?.textContent ?? "",
    spoken: shown(".result [role=status]")?.textContent ?? "",
    far: shown("progress[value]")?.value ?? null,
    preview: Boolean(shown("img.preview")),
  })).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
}"""


def noted(page: Page) -> list[dict[str, Any]]:
    return page.evaluate("window.noted")


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
    page.evaluate(NOTE)
    draw(page, "a slow picture")
    done(page)
    previewed = [now for now in noted(page) if now["preview"]]
    assert any(re.fullmatch(r"Drawing, \d+ %", now["state"]) and 0 < now["far"] < 1 for now in previewed)
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


def test_a_cancel_without_an_answer_is_told_and_a_request_that_waits_again_too(visit: Visit) -> None:
    page = visit(expected=(0, 499))  # the browser itself complains of a connection that fails
    page.get_by_label("Inference steps", exact=True).fill("50")
    page.get_by_label("Number of images", exact=True).fill("4")
    draw(page)
    expect(page.locator("[data-state=drawing]")).to_be_visible()
    page.route("**/cancel", lambda route: route.abort())
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_text("It could not be cancelled. The server does not answer.")).to_be_visible()
    expect(page.locator("[data-state=drawing]")).to_be_visible()
    page.unroute("**/cancel")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator("[data-state=cancelled]")).to_be_visible()
    states = page.evaluate(
        """async () => {
          const { Run } = await import("/static/run.js");
          const run = new Run("fal-ai/flux-pro", {});
          return [
            { status: "IN_PROGRESS", progress: 0.57, images: [{ url: "data:," }] },
            { status: "IN_QUEUE", queue_position: 2 },
          ].map((status) => {
            run.hear(status);
            return [run.state, run.progress, run.previews].map((each) => JSON.stringify(each.value)).join(" ");
          });
        }"""
    )
    assert states == ['"drawing" 0.57 [{"url":"data:,"}]', '"queued" 0 []']


def test_an_error_stands_at_its_field_and_goes_when_the_field_is_mended(visit: Visit) -> None:
    page = visit(expected=(422,))
    page.get_by_label("Inference steps", exact=True).fill("51")
    draw(page)
    wrong = page.locator("[data-field=num_inference_steps] .wrong")
    expect(wrong).to_contain_text("less than or equal to 50")
    expect(page.get_by_label("Inference steps", exact=True)).to_have_attribute("aria-invalid", "true")
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    page.get_by_role("link", name="Playground", exact=True).click()
    expect(page.get_by_text("See num_inference_steps in the form.")).to_be_visible()
    expect(wrong).to_contain_text("less than or equal to 50")
    expect(page.locator("#main")).to_be_focused()
    page.get_by_label("Inference steps", exact=True).fill("20")
    expect(wrong).to_have_count(0)


def test_a_wrong_size_choice_or_list_takes_the_focus_and_says_what_is_wrong(visit: Visit) -> None:
    page = visit("/models", expected=(422,))
    for wrong, name in (
        ({"image_size": {"width": 10**6, "height": 512}}, "Image size"),
        ({"output_format": "gif"}, "Output format"),
        ({"loras": [{"scale": 1}]}, "LoRAs"),
    ):
        page.goto("/models/fal-ai/flux-lora" + linked(prompt="a heron", **wrong))
        page.get_by_role("button", name="Run", exact=True).click()
        group = page.get_by_role("group", name=name, exact=True)
        expect(group).to_be_focused()
        expect(group).to_have_attribute("aria-invalid", "true")
        described = (group.get_attribute("aria-describedby") or "").split()
        assert f"field-{next(iter(wrong))}-wrong" in described
        assert all(page.locator(f"[id={each}]").count() == 1 for each in described)
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert [v["id"] for v in found.response["violations"] if v["impact"] in {"serious", "critical"}] == []


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


PASTE = """async ([text, into]) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
  const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
  const data = new DataTransfer();
  data.items.add(new File([blob], "pasted.png", {type: "image/png"}));
  if (text) data.items.add(text, "text/plain");
  const event = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
  document.querySelector(into).dispatchEvent(event);
  return event.defaultPrevented;
}"""


def paste(page: Page, text: str = "", into: str = "body") -> bool:
    """A picture, and with it `text`; → whether the page took it as a picture."""
    return page.evaluate(PASTE, [text, into])


def test_a_pasted_picture_is_taken(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    expect(page.get_by_label("Choose a picture")).to_be_attached()
    assert paste(page, "A1\tB1", "#field-prompt") is False, "cells of a spreadsheet are text in a box for text"
    expect(page.locator(".drop")).not_to_contain_text("Uploading")
    assert paste(page, into="#field-prompt") is True
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
    expect(page.locator("[data-field=image_size] .warning")).to_contain_text("size_rounded")
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
    shown = page.get_by_role("button", name="a green frog", exact=True)
    expect(shown).to_have_accessible_description("Show it large")
    shown.press("Enter")
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


def sent(page: Page) -> dict[str, Any]:
    """The request's body as the JSON tab shows it."""
    page.get_by_role("tab", name="JSON").click()
    return json.loads(page.get_by_role("region", name="The request's body").inner_text())


def test_a_link_to_the_form_restores_it_elsewhere(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("a boat & a 'sail' – 100 %")
    page.get_by_label("Inference steps", exact=True).fill("7")
    page.get_by_role("button", name="Portrait 16:9").click()
    page.get_by_role("button", name="Share").click()
    expect(page.get_by_text("Link to this form copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    other = visit(link)
    expect(other.get_by_label("Prompt", exact=True)).to_have_value("a boat & a 'sail' – 100 %")
    assert sent(other) == sent(page)
    other.get_by_label("Prompt", exact=True).fill("changed since")
    other.reload()
    expect(other.get_by_label("Prompt", exact=True)).to_have_value("changed since")


def test_a_damaged_link_leaves_the_form_as_it_was(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro#input=%7Bnonsense")
    expect(page.get_by_text("The link is damaged")).to_be_visible()
    expect(page.get_by_label("Inference steps", exact=True)).to_have_value("28")


def test_reset_brings_the_defaults_back(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Inference steps", exact=True).fill("7")
    page.get_by_label("Prompt", exact=True).fill("gone soon")
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_label("Inference steps", exact=True)).to_have_value("28")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("")


def test_the_seed_is_rolled_kept_and_let_go(visit: Visit) -> None:
    page = visit()
    seed = page.get_by_label("Seed", exact=True)
    page.get_by_role("button", name="Roll the dice").click()
    first = int(seed.input_value())
    page.get_by_role("button", name="Roll the dice").click()
    assert int(seed.input_value()) != first
    page.get_by_role("button", name="Keep this seed").click()
    expect(seed).to_have_value("")
    assert "seed" not in sent(page)


def test_a_seed_is_kept_to_the_digit_or_refused_in_sight(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro")
    seed, run = page.get_by_label("Seed", exact=True), page.get_by_role("button", name="Run", exact=True)
    for typed, why in (
        ("12345678901234567", "exact up to 9007199254740991"),
        ("1.5", "whole number"),
        ("1e3", "whole number"),
    ):
        seed.fill("")
        seed.press_sequentially(typed)
        expect(seed).to_have_value(typed)
        expect(page.locator("[data-field=seed] .wrong")).to_contain_text(why)
        expect(run).to_be_disabled()
    seed.fill("9007199254740991")
    expect(run).to_be_enabled()
    assert sent(page)["seed"] == 2**53 - 1
    seed.fill("-1")
    assert sent(page)["seed"] == -1
    page.goto("/models/fal-ai/flux-pro" + linked(prompt="of a program", seed=2**64 - 1))
    expect(run).to_be_disabled()
    page.get_by_role("button", name="Keep this seed").click()
    expect(seed).to_have_value("")
    expect(run).to_be_enabled()


def test_the_edges_of_a_custom_size_are_swapped(visit: Visit) -> None:
    page = visit()
    page.get_by_role("button", name="Landscape 16:9").click()
    page.get_by_role("button", name="Custom").click()
    page.get_by_role("button", name="Swap the edges").click()
    assert sent(page)["image_size"] == {"width": 576, "height": 1024}


def test_control_enter_runs_from_anywhere_on_the_page(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    page.get_by_label("Inference steps", exact=True).fill("2")
    page.get_by_role("tab", name="Python", exact=True).focus()
    page.keyboard.press("Control+Enter")
    done(page)


def test_loras_are_rows_of_their_own_fields(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-lora", expected=(422,))
    page.get_by_label("Prompt", exact=True).fill("a heron")
    page.get_by_role("button", name="Add a LoRA").click()
    page.get_by_role("group", name="LoRA 1").get_by_label("Path", exact=True).fill("https://example.org/a.safetensors")
    page.get_by_role("button", name="Add another LoRA").click()
    second = page.get_by_role("group", name="LoRA 2")
    second.get_by_label("Scale", exact=True).fill("0.5")
    assert sent(page)["loras"] == [{"path": "https://example.org/a.safetensors", "scale": 1}, {"scale": 0.5}]
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-field=loras] .wrong")).to_contain_text("2, path: Field required")
    second.get_by_role("button", name="Remove LoRA 2").click()
    assert len(sent(page)["loras"]) == 1


def upload(page: Page, field: str, **size: int) -> None:
    page.locator(f"[data-field={field}]").get_by_label("Choose a picture").set_input_files(
        {"name": "in.png", "mimeType": "image/png", "buffer": picture(**size)}
    )
    expect(page.locator(f"[data-field={field}] .drop img")).to_be_visible()


def test_a_mask_is_painted_over_the_picture(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro/v1/fill")
    expect(page.get_by_text("the mask can be painted over it")).to_be_visible()
    upload(page, "image_url", width=320, height=200)
    page.get_by_role("button", name="Paint it").click()
    canvas = page.get_by_label("The mask")
    box = canvas.bounding_box()
    assert box is not None
    across = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 2, across)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, across, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Use this mask").click()
    expect(page.locator("dialog.painter")).to_have_count(0)
    url = page.get_by_label("Mask URL", exact=True).input_value()
    with urllib.request.urlopen(url, timeout=60) as answer:
        mask = Image.open(io.BytesIO(answer.read())).convert("L")
    assert mask.size == (320, 200)
    assert [mask.getpixel(place) for place in ((40, 100), (300, 100), (40, 10))] == [255, 0, 0]


def test_one_pasted_picture_goes_to_one_field_the_empty_one(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro/v1/fill")
    upload(page, "image_url")
    before = page.get_by_label("Image URL", exact=True).input_value()
    paste(page)
    expect(page.locator("[data-field=mask_url] .drop img")).to_be_visible()
    expect(page.get_by_label("Image URL", exact=True)).to_have_value(before)


def test_a_result_goes_into_a_list_of_pictures_where_the_endpoint_takes_one(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro/kontext/multi")
    upload(page, "image_urls")
    page.get_by_label("Prompt", exact=True).fill("put them together")
    page.get_by_role("button", name="Run", exact=True).click()
    done(page)
    result = page.locator(".result img").get_attribute("src") or "?"
    page.get_by_role("button", name="Use as input").click()
    expect(page.get_by_label("Image URLs, 1")).to_have_value(re.compile(re.escape(result)))


def test_steps_are_announced_in_quarters_and_shown_one_by_one(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Inference steps", exact=True).fill("50")
    page.evaluate(NOTE)
    draw(page)
    done(page)
    expect(page.locator(".result [role=status]")).to_have_text("Done: 1 image")
    expect(page).to_have_title("FLUX.1 [pro] Text to Image · impasto")
    spoken = {now["spoken"] for now in noted(page) if now["spoken"].startswith("Drawing")}
    assert spoken & {f"Drawing, {quarter} %" for quarter in (25, 50, 75)}
    assert spoken <= {"Drawing", *(f"Drawing, {quarter} %" for quarter in (25, 50, 75, 100))}
    assert any(re.match(r"\d+ % · FLUX.1 \[pro\]", now["title"]) for now in noted(page))


def test_who_wants_no_motion_sees_none(visit: Visit) -> None:
    page = visit()
    page.emulate_media(reduced_motion="reduce")
    draw(page)
    expect(page.locator(".waiting-canvas, img.preview, [data-state=done]").first).to_be_visible()
    moving = "document.getAnimations().filter((each) => each.playState === 'running').length"
    assert page.evaluate(moving) == 0
    done(page)


def test_a_server_that_is_gone_and_one_without_a_runner_are_told(
    visit: Visit, serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(tmp_path, IMPASTO_MODEL_PIPELINE="flux", IMPASTO_MODEL_NAME="/nowhere/x.safetensors")
    page = visit(origin=server.url, expected=(0,))  # the browser itself complains of a connection that is refused
    expect(page.get_by_text("No runner draws for this endpoint")).to_be_visible()
    server.stop()
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")


def test_the_chosen_language_is_remembered(visit: Visit) -> None:
    page = visit()
    page.get_by_role("tab", name="curl").click()
    page.goto("/models/fal-ai/flux/dev/api")
    expect(page.get_by_role("tab", name="curl")).to_have_attribute("aria-selected", "true")


def test_a_number_stands_as_it_is_typed(visit: Visit) -> None:
    page = visit()
    scale = page.get_by_label("Guidance scale (CFG)", exact=True).or_(page.get_by_label("Guidance scale", exact=True))
    scale.click()
    scale.press("Control+a")
    scale.press_sequentially("1.05")
    expect(scale).to_have_value("1.05")
    assert sent(page)["guidance_scale"] == 1.05
    scale.press("Backspace")
    expect(scale).to_have_value("1.0")
    page.get_by_role("button", name="Reset").click()
    expect(scale).to_have_value("3.5")


def linked(**input_: Any) -> str:
    return "#input=" + urllib.parse.quote(json.dumps(input_))


def test_a_link_says_all_of_the_form_also_on_a_page_that_is_open(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro")
    page.get_by_label("Inference steps", exact=True).fill("5")
    page.goto("/models/fal-ai/flux-pro" + linked(prompt="of a link", num_images=2))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("of a link")
    expect(page.get_by_label("Inference steps", exact=True)).to_have_value("28")
    assert sent(page)["num_images"] == 2
    assert "#" not in page.url
    page.get_by_label("Inference steps", exact=True).fill("6")
    page.goto("/models")
    page.goto("/models/fal-ai/flux-pro" + linked(prompt="another"))
    expect(page.get_by_label("Inference steps", exact=True)).to_have_value("28")


def test_lists_that_are_none_do_not_break_the_form(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-lora" + linked(prompt="a heron", loras="https://example.org/a.safetensors"))
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a heron")
    assert "loras" not in sent(page)
    other = visit("/models/fal-ai/flux-pro/kontext/multi" + linked(prompt="a heron", image_urls=[7]))
    expect(other.get_by_label("Prompt", exact=True)).to_have_value("a heron")


def choose(page: Page, field: str, *, at: int = 0) -> None:
    page.locator(f"[data-field={field}]").get_by_label("Choose a picture").nth(at).set_input_files(FILE)


def test_two_pictures_uploaded_at_once_are_both_kept(visit: Visit, hold: Hold) -> None:
    page = visit("/models/fal-ai/flux-pro/kontext/multi")
    held = hold(page, UPLOAD)
    choose(page, "image_urls")
    choose(page, "image_urls")
    first, second = held.next(), held.next()
    pictures = page.locator("[data-field=image_urls] .drop img")
    for count, upload_ in enumerate((second, first), 1):
        upload_.continue_()
        expect(pictures).to_have_count(count)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()


def test_a_picture_that_is_being_chosen_when_another_one_comes_in_does_not_replace_it(visit: Visit, hold: Hold) -> None:
    page = visit("/models/fal-ai/flux-pro/kontext/multi")
    held = hold(page, UPLOAD, times=1)
    field = page.locator("[data-field=image_urls]")
    choose(page, "image_urls")
    first = held.next()
    with page.expect_file_chooser() as opened:
        field.get_by_text("Choose a file").click()
    page.get_by_label("Image URLs, 1").focus()
    first.continue_()
    expect(field.locator(".drop img")).to_have_count(1)
    opened.value.set_files(FILE)
    expect(field.locator(".drop img")).to_have_count(2)
    expect(page.get_by_label("Image URLs, 3")).to_be_focused()


def test_run_waits_for_the_pictures_that_come_into_a_full_list(visit: Visit, hold: Hold) -> None:
    page = visit(
        "/models/fal-ai/flux-pro/kontext/multi" + linked(prompt="a heron", image_urls=["https://a.example"] * 3)
    )
    held = hold(page, UPLOAD)
    run, boxes = page.get_by_role("button", name="Run", exact=True), page.locator("[data-field=image_urls] .drop")
    expect(boxes).to_have_count(4)
    choose(page, "image_urls", at=3)
    choose(page, "image_urls", at=3)
    uploads = held.next(), held.next()
    uploads[0].continue_()
    expect(boxes.locator("img")).to_have_count(1)
    expect(run).to_be_disabled()
    uploads[1].continue_()
    expect(boxes.locator("img")).to_have_count(2)
    expect(run).to_be_enabled()
    expect(boxes).to_have_count(5)  # the server says how many it takes; none is lost


def test_a_field_of_json_shows_what_is_sent_and_run_waits_until_it_can_be_read(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-general")
    box, run = page.locator("#field-fill_image"), page.get_by_role("button", name="Run", exact=True)
    box.fill('{ "a": [1]}')
    expect(box).to_have_value('{ "a": [1]}')
    assert sent(page)["fill_image"] == {"a": [1]}
    page.goto("/models/fal-ai/flux-general" + linked(prompt="a heron", fill_image={"b": 2}, control_loras=[{}]))
    expect(box).to_have_value(re.compile('"b": 2'))
    page.get_by_role("group", name="Control LoRA 1").get_by_label("Scale", exact=True).fill("[")
    assert sent(page)["control_loras"] == [{}]
    for unreadable in ("{", '{"b"'):
        box.fill(unreadable)
        expect(box).to_have_value(unreadable)
        expect(run).to_be_disabled()
        expect(page.get_by_text("Fill image: mend it or empty it")).to_be_in_viewport()
        assert "fill_image" not in sent(page)
        page.get_by_role("button", name="Reset").click()
        expect(box).to_have_value("")
        expect(run).to_be_enabled()


def test_an_upload_ends_in_its_own_box_and_the_last_one_of_a_box_stays(visit: Visit, hold: Hold) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    run = page.get_by_role("button", name="Run", exact=True)
    held = hold(page, UPLOAD, times=1)
    choose(page, "image_url")
    expect(run).to_be_disabled()
    first = held.next()
    with page.expect_response(UPLOAD) as begun:
        choose(page, "image_url")
    box, last = page.get_by_label("Image URL", exact=True), begun.value.json()["file_url"]
    expect(box).to_have_value(last)
    with suppress(Error):  # the page has given it up
        first.continue_()
    page.wait_for_timeout(300)
    expect(box).to_have_value(last)
    expect(run).to_be_enabled()

    page.goto("/models/fal-ai/flux-pro/kontext/multi")
    for number in "123":
        page.get_by_label(f"Image URLs, {number}").fill(f"https://example.org/{number}.png")
    held = hold(page, UPLOAD)
    choose(page, "image_urls", at=1)
    page.get_by_role("button", name="Remove").first.click()
    held.next().continue_()
    expect(page.locator("[data-field=image_urls] .drop img")).to_have_count(1)
    first, second = sent(page)["image_urls"]
    assert "/files/b/" in first
    assert second == "https://example.org/3.png"

    units = [{"path": name, "control_image_url": "https://example.org/c.png"} for name in "ab"]
    page.goto("/models/fal-ai/flux-general" + linked(prompt="a heron", controlnets=[*units, units[0]]))
    choose(page, "controlnets", at=2)
    page.get_by_role("button", name="Remove Controlnet 1").click()
    held.next().continue_()
    expect(page.locator("[data-field=controlnets] .drop img")).to_have_count(1)
    assert ["/files/b/" in row["control_image_url"] for row in sent(page)["controlnets"]] == [True, False]


def test_a_url_is_typed_into_a_list_of_pictures_letter_by_letter(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro/kontext/multi")
    page.get_by_label("Image URLs, 1").focus()
    for box, url in (("1", "https://example.org/a.png"), ("2", "https://example.org/b.png")):
        page.keyboard.type(url)
        expect(page.get_by_label(f"Image URLs, {box}")).to_have_value(url)
        expect(page.get_by_label(f"Image URLs, {box}")).to_be_focused()
        page.get_by_label(f"Image URLs, {int(box) + 1}").focus()
    assert sent(page)["image_urls"] == ["https://example.org/a.png", "https://example.org/b.png"]


def test_a_picture_is_uploaded_from_a_page_under_another_name_than_the_public_one(
    visit: Visit, serve: Callable[..., Any], tmp_path: Path
) -> None:
    server = serve(tmp_path, IMPASTO_SERVER_PUBLIC_URL="http://draw.localhost:9")
    try:
        page = visit("/models/fal-ai/flux/dev/image-to-image", origin=server.url)
        upload(page, "image_url")
        assert page.get_by_label("Image URL", exact=True).input_value().startswith("http://draw.localhost:9/files/")
        draw(page, "a blue star")
        done(page)
        page.close()  # it asks the server as long as it is open
    finally:
        server.stop()
