"""Every control of every page can be changed: no page shows state of the old choice under the name of the new one."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

Visit = Callable[..., Page]
Hold = Callable[..., Any]

PAGES = (
    "/", "/models", "/models/fal-ai/flux-general", "/models/fal-ai/flux-pro/v1/fill", "/models/fal-ai/flux-pro/api",
    "/compare", "/history", "/dashboard",
)  # fmt: skip

# Changes every control of the page once, each select to each of its options, and notes after every change whether the
# page still stands. Buttons that open a dialog, leave the page or start work are the other tests' subject.
CHANGE_ALL = """async () => {
  const settle = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  const shown = (each) => each.isConnected && !each.disabled && each.getClientRects().length;
  const name = (each) => (each.ariaLabel || each.labels?.[0]?.textContent || each.textContent).trim().slice(0, 40);
  const failed = [], changed = [];
  const check = async (what) => {
    changed.push(what);
    for (let n = 0; n < 400 && document.querySelector("main .waiting"); n++)
      await new Promise((done) => setTimeout(done, 10));
    await settle();
    if (/This page has failed/.test(document.querySelector("main").textContent)) failed.push(what);
  };
  for (const details of document.querySelectorAll("main details")) details.open = true;
  const set = (input, value) => {
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const selects = document.querySelectorAll("main select").length;
  for (let at = 0; at < selects; at++) {
    const options = [...document.querySelectorAll("main select")[at].options].map((each) => each.value);
    for (const option of [...options, options[0]]) {
      const select = document.querySelectorAll("main select")[at];
      if (!select) break;
      select.value = option;
      select.dispatchEvent(new Event("change", { bubbles: true }));
      await check(`select ${at}: ${option}`);
    }
  }
  const all = (selector) => [...document.querySelectorAll(selector)];
  const click = async (each) => shown(each) && (each.click(), await check(name(each)));
  const fill = async (input, values) => {
    for (const value of shown(input) ? values : []) set(input, value), await check(`${name(input)}: ${value}`);
  };
  for (const input of all("main input[type=checkbox]")) await click(input);
  for (const input of all("main :is(input[type=number], input[type=range])")) await fill(input, [input.max || "7", ""]);
  for (const input of all("main :is(textarea, [type=text], [type=search])")) await fill(input, ["7", "words", ""]);
  for (const button of all("main :is([aria-pressed], [role=tab])")) await click(button);
  return { failed, changed };
}"""


@pytest.mark.parametrize("path", PAGES)
def test_no_control_of_any_page_breaks_it(visit: Visit, path: str) -> None:
    page = visit(path, expected=(400, 422))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    if path == "/models/fal-ai/flux-general":
        for button in page.get_by_role("button", name="Add a ").all():
            button.click()
    done = page.evaluate(CHANGE_ALL)
    assert done["failed"] == []
    least = {"/compare": 50, "/models/fal-ai/flux-pro/api": 5}.get(path, 6)
    assert len(done["changed"]) >= least, done["changed"]
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_column_whose_model_was_changed_is_drawn_with_the_new_one_and_says_which_drew(visit: Visit) -> None:
    page = visit("/compare")
    column = page.locator(".column").first
    column.get_by_label("Model").select_option("fal-ai/flux/schnell")
    column.get_by_label("Inference steps").fill("3")
    column.get_by_role("button", name="Run").click()
    expect(column.locator("[data-state=done]")).to_be_visible()
    expect(column.locator(".asked")).to_contain_text("fal-ai/flux/schnell, num_inference_steps 3")
    column.get_by_label("Model").select_option("fal-ai/flux/dev")
    expect(column.locator(".asked")).to_contain_text("fal-ai/flux/schnell")
    expect(column.locator(".asked")).to_contain_text("changed since")


def test_a_column_whose_schema_cannot_be_read_can_be_given_another_model(visit: Visit) -> None:
    page = visit("/compare", expected=(0,))
    column = page.locator(".column").first
    expect(column.get_by_label("Inference steps")).to_be_visible()
    page.route("**/openapi.json?endpoint_id=fal-ai%2Fflux%2Fschnell", lambda route: route.abort())
    column.get_by_label("Model").select_option("fal-ai/flux/schnell")
    expect(column.get_by_role("alert")).to_be_visible()
    expect(column.get_by_role("button", name="Run")).to_be_disabled()
    column.get_by_label("Model").select_option("fal-ai/flux/dev")
    expect(column.get_by_label("Inference steps")).to_be_visible()


def test_plots_and_lists_never_bear_the_title_of_another_choice(visit: Visit, hold: Hold) -> None:
    page = visit("/dashboard")
    expect(page.get_by_role("img", name="in 24 hours")).to_be_visible()
    held = hold(page, "**/v1/system/activity?**", times=1)
    page.get_by_role("button", name="7 days").click()
    late = held.next()
    expect(page.get_by_role("img", name="in 24 hours")).to_be_visible()
    expect(page.get_by_role("img", name="in 7 days")).to_have_count(0)
    late.continue_()
    expect(page.get_by_role("img", name="in 7 days")).to_be_visible()


# ---------------------------------------------------------------- what is required


def test_an_empty_required_field_is_refused_at_the_field_and_nothing_is_sent(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/image-to-image")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    prompt = page.get_by_label("Prompt", exact=True)
    run = page.get_by_role("button", name="Run", exact=True)
    for act in (run.click, lambda: page.keyboard.press("Control+Enter")):
        prompt.fill("  ")
        act()
        expect(page.locator("[data-field=prompt] .wrong")).to_contain_text("Write what should be drawn")
        expect(page.locator("[data-field=image_url] .wrong")).to_contain_text("required")
        expect(page.locator("[aria-invalid=true]").first).to_be_focused()
        expect(prompt).to_have_attribute("aria-invalid", "true")
    prompt.fill("a blue star")
    expect(page.locator("[data-field=prompt] .wrong")).to_have_count(0)
    expect(page.locator("[data-field=image_url] .wrong")).to_be_visible()
    expect(prompt).to_be_focused()
    assert sent == []


def test_an_optional_prompt_may_stay_empty(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/redux")
    page.get_by_label("Choose a picture").set_input_files(FILE)
    expect(page.locator(".drop img")).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-state=done]")).to_be_visible()


def test_compare_refuses_an_empty_prompt_and_a_seed_that_is_none(visit: Visit) -> None:
    page = visit("/compare")
    expect(page.get_by_label("Inference steps")).to_have_count(2)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    prompt = page.get_by_label("Prompt")
    for button in ("Run all", "Run"):
        prompt.fill("")
        page.get_by_role("button", name=button, exact=True).first.click()
        expect(page.get_by_role("alert")).to_contain_text("the prompt is empty")
        expect(prompt).to_be_focused()
        prompt.fill("a red apple")
        expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_label("Seed").fill("12345678901234567890")
    expect(page.get_by_role("alert")).to_contain_text("exact up to")
    page.get_by_role("button", name="Run all").click()
    assert sent == []


# ---------------------------------------------------------------- a result and its input

FILE: Any = {
    "name": "in.png",
    "mimeType": "image/png",
    "buffer": (Path(__file__).parents[2] / "docs" / "images" / "playground.jpg").read_bytes(),
}


def draw(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Run").click()


def test_a_second_run_joins_the_queue_and_each_result_keeps_its_own_input(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro")
    page.get_by_label("Inference steps", exact=True).fill("50")
    draw(page, "a red apple")
    expect(page.get_by_role("button", name="Run next")).to_be_enabled()
    draw(page, "a blue star")
    others = page.get_by_role("region", name="Other runs")
    expect(others).to_contain_text("a red apple")
    expect(page.locator(".asked")).to_contain_text("a blue star")
    expect(page.locator("[data-state=done]")).to_be_visible()
    expect(others).to_contain_text("Done: 1 image")
    page.get_by_label("Prompt", exact=True).fill("a green frog")
    expect(page.locator(".asked")).to_contain_text("a blue star")
    expect(page.locator(".asked")).to_contain_text("The form has changed since")
    others.get_by_role("button", name="Show: a red apple").click()
    expect(page.locator(".asked")).to_contain_text("a red apple")
    expect(page.locator(".result img")).to_have_attribute("alt", "a red apple")
    page.get_by_role("button", name="Restore this input").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red apple")
    expect(page.locator(".asked")).not_to_contain_text("changed since")


def test_a_variation_is_one_of_the_image_and_not_of_what_the_form_says_by_now(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro")
    page.get_by_label("Inference steps", exact=True).fill("2")
    draw(page, "a red apple")
    expect(page.locator("[data-state=done]")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("something else")
    page.get_by_role("button", name="Variation").click()
    expect(page.get_by_role("region", name="Other runs")).to_contain_text("a red apple")
    expect(page.locator(".asked")).to_contain_text("a red apple")
    page.get_by_role("tab", name="JSON").click()
    assert json.loads(page.get_by_role("region", name="The request's body").inner_text())["prompt"] == "a red apple"


def test_the_same_input_twice_at_once_is_told_and_drawn_once(visit: Visit, hold: Hold) -> None:
    page = visit("/models/fal-ai/flux-pro")
    held = hold(page, "**/queue/fal-ai/flux-pro")
    draw(page, "a red apple")
    first = held.next()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("This input is being drawn already")).to_be_visible()
    first.continue_()
    expect(page.locator("[data-state=done]")).to_be_visible()
    assert len(held) == 0
    expect(page.get_by_role("region", name="Other runs")).to_have_count(0)


def test_a_warning_about_a_field_is_said_at_the_field_until_it_is_changed(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro")
    page.get_by_role("button", name="Custom").click()
    page.get_by_label("Width").fill("500")
    draw(page, "a red apple")
    told = page.locator("[data-field=image_size] .warning")
    expect(told).to_contain_text("size_rounded")
    group = page.get_by_role("group", name="Image size", exact=True)
    expect(group).to_have_accessible_description(re.compile("size_rounded"))
    expect(page.locator(".result .warning")).to_have_count(0)
    page.get_by_label("Width").fill("512")
    expect(told).to_have_count(0)
    expect(page.locator(".result .warning")).to_contain_text("size_rounded")


# ---------------------------------------------------------------- what the loaded model cannot draw


def test_an_endpoint_that_the_loaded_model_cannot_draw_says_so_before_anything_is_uploaded(visit: Visit) -> None:
    lack = {"status": "unsupported", "reason": "impasto-mini fills no masks.", "commands": ["impasto models pull x"]}

    def lacking(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        for model in body["models"]:
            if model["endpoint_id"] == "fal-ai/flux-pro/v1/fill":
                model["impasto"]["availability"] = lack
        route.fulfill(response=answer, json=body)

    page = visit("/models")
    page.route("**/v1/models?**", lacking)
    page.reload()
    card = page.locator(".models li").filter(has=page.get_by_text("fal-ai/flux-pro/v1/fill", exact=True))
    expect(card).to_contain_text("Not with the loaded model")
    for path in ("/models/fal-ai/flux-pro/v1/fill", "/models/fal-ai/flux-pro/v1/fill/api"):
        page.goto(path)
        said = page.locator(".unsupported")
        expect(said).to_contain_text("impasto-mini fills no masks.")
        expect(said).to_contain_text("impasto models pull x")
        expect(said).to_be_in_viewport()
    page.goto("/models/fal-ai/flux-pro/v1/fill")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    expect(page.get_by_text("see the top of the page")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(page.locator(".notice")).to_contain_text("see the top of the page")
    page.unroute("**/v1/models?**")
    expect(page.locator(".unsupported")).to_have_count(0)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()


def test_two_clicks_make_one_key(visit: Visit, hold: Hold) -> None:
    page = visit("/dashboard")
    page.get_by_label("Name of a new key").fill("twice")
    held = hold(page, "**/v1/keys")
    create = page.get_by_role("button", name="Create")
    create.click()
    first = held.next()
    expect(create).to_be_disabled()
    page.get_by_label("Name of a new key").press("Enter")
    assert len(held) == 0
    first.continue_()
    expect(page.get_by_text("Shown this once:")).to_be_visible()
    expect(create).to_be_enabled()
