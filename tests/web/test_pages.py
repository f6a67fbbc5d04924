"""The other pages, and what holds for every one of them: phone width, dark, no serious accessibility violation."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

Visit = Callable[..., Page]
Hold = Callable[..., Any]
SEED = (
    (Path(__file__).parents[1] / "conformance" / "fixtures" / "flux-pro-api-page.txt").read_text().replace("\xa0", " ")
)
PAGES = (
    "/", "/models", "/models/fal-ai/flux-pro/api", "/models/fal-ai/flux/dev/image-to-image", "/models/fal-ai/flux-lora",
    "/compare", "/history", "/dashboard",
)  # fmt: skip


def fields_of(section: str) -> list[tuple[str, str, bool, str]]:
    """(name, type, required, the rest) of a list of fields on the seed page."""
    found = []
    head = re.compile(r"^([a-z_]+) ([A-Za-z<>| ]+?)(\* required)?$")
    for line in section.splitlines():
        if match := head.match(line):
            found.append([match[1], match[2], bool(match[3]), ""])
        elif found and line.strip() and not line.startswith(("{", "}", " ", '"', "[")):
            found[-1][3] += line + "\n"
    return [(name, type_, required, rest) for name, type_, required, rest in found]


def sections() -> dict[str, str]:
    schema = SEED.partition("5. Schema#")[2]
    parts = re.split(r"^(\w[\w ]*)#$", schema, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


TYPES = {
    "Input": "FluxProTextToImageInput",
    "Output": "FluxProTextToImageOutput",
    "Image": "Image",
    "FluxProUltraTextToImageInputRedux": "FluxProUltraTextToImageInputRedux",
    "ImageSize": "ImageSize",
    "FluxProRedux": "FluxProRedux",
}


@pytest.fixture
def api_page(visit: Visit) -> Page:
    page = visit("/models/fal-ai/flux-pro/api")
    expect(page.locator("#schema")).to_be_visible()
    page.locator("article details").evaluate_all("all => all.forEach((each) => (each.open = true))")
    return page


@pytest.mark.parametrize("title", TYPES)
def test_every_field_of_the_seed_page_stands_on_ours_as_it_is_there(api_page: Page, title: str) -> None:
    shown = api_page.locator(f'dl[data-type="{TYPES[title]}"]').first
    fields = fields_of(sections()[title])
    assert fields
    assert shown.locator(".row-of-field .name").all_inner_texts() == [name for name, *_ in fields]
    for name, type_, required, rest in fields:
        row = shown.locator(f'[data-field="{name}"]')
        assert row.locator(".type").inner_text() == type_
        assert (row.get_by_text("required", exact=True).count() == 1) is required
        check_words(row, rest)


def check_words(row: Locator, rest: str) -> None:
    """Description, default, words and notes, whatever the line breaks are."""
    text = " ".join(row.inner_text().split())
    if default := re.search(r"Default value: (\S+)", rest):
        written = default[1] if default[1].startswith('"') or not default[1][0].isalpha() else f'"{default[1]}"'
        assert f"Default value: {written if default[1] not in ('true', 'false') else default[1]}" in text
    if words := re.search(r"Possible enum values: (.+)", rest):
        assert f"Possible enum values: {words[1]}" in text
    description = rest.split("\n")[0].partition(" Default value:")[0]
    if not description.startswith(("Default", "Possible", "API only", "Note")):
        assert description in text
    assert ("API only" in rest) <= ("API only" in text)
    for note in re.findall(r"Note: (.+)", rest):
        assert " ".join(note.split()) in text


def test_every_heading_and_snippet_of_the_seed_page_stands_on_ours(api_page: Page) -> None:
    words = " ".join(api_page.locator("main").inner_text().split())
    for heading in re.findall(r"^(?:\d\. )?([A-Z][\w ()]*)#$", SEED, re.MULTILINE):
        assert heading in words
    for sentence in (
        "The client provides a convenient way to interact with the model API.",
        "Set FAL_KEY as an environment variable in your runtime.",
        "The client API handles the API submit protocol.",
        "The API uses an API Key for authentication.",
        "you can set the API Key manually as a client configuration.",
        "You can fetch the status of a request to check if it is completed or still in progress.",
        "Once the request is completed, you can fetch the result.",
        "you can pass your own URL or a Base64 data URI.",
        "The API will handle the file decoding for you.",
        "as long as they are publicly accessible",
        "We provide a convenient file storage",
    ):
        assert sentence in SEED
        assert sentence in words
    code = "\n".join(api_page.locator("pre").all_inner_texts())
    for line in SEED.splitlines():
        if re.match(r"(import|const|console\.log|fal\.config|npm|export) ?", line):
            assert line.strip() in code, line


def test_the_example_input_of_the_seed_page_is_shown(api_page: Page) -> None:
    shown = json.loads(api_page.locator('pre[aria-label="An example input"]').inner_text())
    example = re.search(r'^\{\n  "prompt".*?^\}', SEED.partition("output_format OutputFormatEnum")[2], re.M | re.S)
    assert example is not None
    assert shown == json.loads(example[0])


def test_the_models_are_listed_and_lead_to_their_pages(visit: Visit) -> None:
    page = visit("/models")
    page.get_by_role("link", name="FLUX.1 [schnell]").first.click()
    page.wait_for_url("**/models/fal-ai/flux/schnell")
    expect(page.get_by_role("heading", level=1)).to_contain_text("schnell")
    page.get_by_role("link", name="API", exact=True).click()
    page.wait_for_url("**/models/fal-ai/flux/schnell/api")


def test_two_settings_are_drawn_side_by_side_on_one_seed(visit: Visit) -> None:
    page = visit("/compare")
    columns = page.locator(".column")
    expect(columns).to_have_count(2)
    columns.nth(0).get_by_label("Inference steps").fill("4")
    columns.nth(1).get_by_label("Inference steps").fill("9")
    page.get_by_role("button", name="Run all").click()
    expect(page.locator("[data-state=done]")).to_have_count(2)
    logs = [column.locator("details.log") for column in columns.all()]
    for log, steps in zip(logs, (4, 9), strict=True):
        log.locator("summary").click()
        expect(log).to_contain_text(f"in {steps} steps, seed 1")


def test_a_column_that_is_being_drawn_is_not_run_twice(visit: Visit, hold: Hold) -> None:
    page = visit("/compare")
    expect(page.get_by_role("button", name="Run", exact=True)).to_have_count(2)
    column = page.locator(".column").first
    run = column.get_by_role("button", name="Run", exact=True)
    held = hold(page, "**/queue/fal-ai/flux-pro")
    run.click()
    expect(run).to_be_disabled()
    page.get_by_role("button", name="Run all").click()
    expect(page.get_by_text("Column 1 is still being drawn")).to_be_visible()
    expect(column.get_by_role("button", name="Cancel")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(2)
    for each in (held.next(), held.next()):
        each.continue_()
    expect(page.locator("[data-state=done]")).to_have_count(2)
    expect(run).to_be_enabled()
    assert len(held) == 0, "one of each column"


def test_an_unknown_page_and_an_unknown_model_say_so(visit: Visit) -> None:
    page = visit("/models/fal-ai/no-such", expected=(404,))
    expect(page.get_by_role("alert")).to_contain_text("not found")


def test_a_browser_at_an_address_that_is_refused_gets_a_page_with_the_same_status(visit: Visit) -> None:
    for path, status, words in (
        ("/nowhere", 404, "There is nothing at this address"),
        ("/files/b/gone/x.png", 404, "There is nothing at this address"),
        ("/storage/upload/initiate", 405, "This address is for programs"),
        ("/fal-ai/flux-pro/requests/00000000-0000-0000-0000-000000000000/status", 404, "nothing at this address"),
    ):
        page = visit("/models", expected=(status,))
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == status
        expect(page.get_by_role("heading", level=1)).to_contain_text(words)
        page.get_by_role("main").get_by_role("link", name="Models").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Models")
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_contain_text(words)


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/plain, */*", None])
def test_a_program_at_an_unknown_path_gets_json_also_when_it_takes_html_with_a_key(
    server: Any, accept: str | None
) -> None:
    sent = {"Accept": accept} if accept else {"Accept": "text/html", "Authorization": "Key local:local"}
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/nowhere", headers=sent), timeout=60)
    with refused.value as answer:
        assert answer.code == 404
        assert set(json.load(answer)) == {"detail"}


def test_what_a_refusal_quotes_of_the_address_is_text_on_its_page(server: Any) -> None:
    asked = urllib.request.Request(f"{server.url}/%3Cscript%3Ealert(1)%3C/script%3E/x", headers={"Accept": "text/html"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)
    with refused.value as answer:
        page = answer.read().decode()
        assert (answer.code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert answer.headers["x-fal-request-id"]
        assert "<script>alert" not in page
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_a_phone(visit: Visit, path: str) -> None:
    page = visit(path, width=360)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_colours_follow_the_system_and_the_switch(visit: Visit) -> None:
    page = visit(dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    for chosen in ("light", "dark"):
        page.get_by_role("button", name="Colours").click()
        expect(page.locator("html")).to_have_attribute("data-theme", chosen)
        assert (page.evaluate(ground) == dark) is (chosen == "dark")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_no_serious_violation(visit: Visit, path: str, dark: bool) -> None:
    page = visit(path, dark=dark)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.wait_for_load_state("networkidle")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    serious = [
        (violation["id"], node["target"], node.get("failureSummary"))
        for violation in found.response["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]
    assert serious == []
    assert found.response["passes"], "axe looked at the page"


def test_axe_finds_no_serious_violation_beside_a_result(visit: Visit) -> None:
    page = visit()
    page.get_by_label("Inference steps", exact=True).fill("2")
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-state=done]")).to_be_visible()
    page.locator("details.log summary").click()
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
    assert [v["id"] for v in found.response["violations"] if v["impact"] in {"serious", "critical"}] == []


def test_models_are_found_by_words_and_kind(visit: Visit) -> None:
    page = visit("/models")
    page.get_by_label("Find").fill("SCHNELL redux")
    expect(page.locator(".models li")).to_have_count(2)
    page.get_by_role("button", name="text-to-image").click()
    expect(page.get_by_text("No endpoint has these words.")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator(".models li").first).to_contain_text("Apache-2.0")


def test_every_page_has_a_title_and_a_new_one_takes_the_focus(visit: Visit) -> None:
    page = visit("/models")
    expect(page).to_have_title("Models · impasto")
    page.get_by_role("link", name="History").click()
    expect(page).to_have_title("History · impasto")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Endpoint")).to_be_focused()


BLOCKED = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, { get() { throw new DOMException("Access is denied", "SecurityError"); } });"""


def test_the_pages_work_where_the_browser_keeps_nothing(visit: Visit) -> None:
    page = visit("/models")
    page.add_init_script(BLOCKED)
    page.goto("/")
    page.get_by_role("tab", name="Python", exact=True).click()
    expect(page.get_by_role("region", name="The request in python")).to_be_visible()
    page.get_by_role("button", name="Colours").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")


def test_nothing_but_this_server_may_be_asked_and_no_inline_code_or_style_runs(visit: Visit, server: Any) -> None:
    with urllib.request.urlopen(
        urllib.request.Request(server.url, headers={"Accept": "text/html"}), timeout=60
    ) as shell:
        policy = dict(rule.split(" ", 1) for rule in shell.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"] == policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'self' 'sha256-[\w+/=]+'", policy["script-src"])


def test_a_link_to_a_part_of_the_api_page_leads_there(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux-pro/api#output")
    expect(page.locator("#output")).to_be_in_viewport()
    expect(page.locator("#about")).not_to_be_in_viewport()


def test_the_api_page_asks_for_the_document_of_its_own_endpoint_only(visit: Visit) -> None:
    page = visit("/models")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/models/fal-ai/flux/dev/api")
    expect(page.locator("#schema")).to_be_visible()
    assert len([url for url in asked if "openapi" in url]) == 1


def test_the_programs_of_every_endpoint_say_all_that_is_required(visit: Visit) -> None:
    page = visit("/models/fal-ai/flux/dev/redux/api")
    page.get_by_role("tab", name="Python", exact=True).click()
    program = page.get_by_role("region", name="The request in python").inner_text()
    compile(program, "copied.py", "exec")
    assert '"image_url": "http' in program
    assert "undefined" not in program
    missing = page.evaluate(
        """async () => {
          const [{ models, openapi }, { exampleInput, types }, { python }] = await Promise.all(
            ["api", "schema", "code"].map((name) => import(`/static/${name}.js`)));
          const faults = [];
          for (const { endpoint_id: id } of await models()) {
            const { input } = types(await openapi(id), id);
            const said = exampleInput(input);
            const required = input.fields.filter((each) => each.required).map((each) => each.name);
            faults.push(...required.filter((name) => !said[name]).map((name) => [id, name]));
            if (/undefined/.test(python(id, { ...said, absent: undefined }))) faults.push([id, undefined]);
          }
          return faults;
        }"""
    )
    assert missing == []


def test_a_column_keeps_its_picture_when_another_one_is_removed(visit: Visit) -> None:
    page = visit("/compare")
    page.get_by_role("button", name="Add a column").click()
    columns = page.locator(".column")
    expect(columns).to_have_count(3)
    for column, steps in zip(columns.all(), ("4", "9", "6"), strict=True):
        column.get_by_label("Inference steps").fill(steps)
    page.get_by_role("button", name="Run all").click()
    expect(page.locator("[data-state=done]")).to_have_count(3)
    columns.nth(0).get_by_role("button", name="Remove").click()
    expect(columns).to_have_count(2)
    for column, steps in zip(columns.all(), (9, 6), strict=True):
        expect(column.get_by_label("Inference steps")).to_have_value(str(steps))
        column.locator("details.log summary").click()
        expect(column.locator("details.log")).to_contain_text(f"in {steps} steps, seed 1")


def test_the_page_that_was_asked_for_last_is_shown(visit: Visit, hold: Hold) -> None:
    page = visit()
    held = hold(page, "**/static/history.js")
    page.get_by_role("link", name="History").click()
    late = held.next()
    page.get_by_role("link", name="Models", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    late.continue_()
    page.evaluate("import('/static/history.js').then(() => new Promise(requestAnimationFrame))")
    expect(page.get_by_role("heading", level=1)).to_have_text("Models")
    assert page.url.endswith("/models")


def test_a_page_that_cannot_be_fetched_says_so_and_is_tried_again(visit: Visit) -> None:
    page = visit(expected=(0,))  # a request that fails has no status, and the browser says so in its console
    page.route("**/static/compare.js*", lambda route: route.abort())
    page.get_by_role("link", name="Compare").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/static/compare.js*")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Compare")
