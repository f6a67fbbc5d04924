"""The dashboard and the keys: what runs, what was drawn for whom and how fast, webhooks, models; for ADMIN only."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
NOWHERE = "http://127.0.0.1:9/hook"  # nobody listens there


def ask(url: str, path: str, body: dict[str, Any] | None = None, *, key: str = "local:local") -> dict[str, Any]:
    asked = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Key {key}"},
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def busy(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that has drawn for two endpoints and failed to deliver a webhook."""
    server = serve(tmp_path_factory.mktemp("busy"))
    ask(server.url, "/fal-ai/flux-pro", {"prompt": "a red apple", "num_inference_steps": 4, "num_images": 2})
    ask(server.url, "/fal-ai/flux/dev", {"prompt": "a star", "num_inference_steps": 4})
    ask(server.url, f"/queue/fal-ai/flux-pro?fal_webhook={NOWHERE}", {"prompt": "told", "num_inference_steps": 4})
    yield server
    assert server.stop() == 0


def row(page: Page, table: str, name: str) -> list[str]:
    """The cells of a row."""
    found = page.get_by_role("region", name=table).get_by_role("row", name=name)
    expect(found).to_be_visible()
    return [" ".join(text.split()) for text in found.get_by_role("cell").all_inner_texts()]


def test_running_work_is_shown_with_its_progress(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url)
    expect(page.locator(".tile")).to_have_count(4)
    work = {"prompt": "a long one", "num_inference_steps": 50, "num_images": 4}
    request_id = ask(busy.url, "/queue/fal-ai/flux-pro", work)["request_id"]
    progress = page.get_by_role("progressbar", name=request_id[:8])
    expect(progress).to_be_visible()
    expect(page.get_by_role("region", name="Running work")).to_contain_text(re.compile(r"[1-9]\d* %"))
    expect(progress).to_have_count(0)


def test_a_runner_is_shown_with_device_memory_and_speed(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url)
    expect(page.get_by_role("region", name="Runners")).to_be_visible()
    cells = row(page, "Runners", "runner-1")
    assert cells[1:4] == ["impasto-mini", "cpu", "uint8"]
    assert re.fullmatch(r"\d+\.\d GiB", cells[4])
    steps, pictures = float(cells[7]), float(cells[8])
    assert 0 < steps <= 1 / 0.03, "a step of these test pictures takes 0.03 s"
    assert pictures > 0


def test_the_plots_and_the_use_of_keys_tell_what_was_drawn(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url)
    summary = ask(busy.url, "/v1/system/activity")["summary"]
    drawn = page.get_by_role("img", name=f"Pictures an hour: {summary['pictures']} in 24 hours")
    expect(drawn).to_be_visible()
    heights = drawn.locator(".bar").evaluate_all("all => all.map((bar) => Number(bar.getAttribute('height')))")
    assert len(heights) == 24
    assert heights[-1] + heights[-2] > 0, "it was drawn in this hour, or a moment before it began"
    expect(page.get_by_role("img", name=re.compile("^Time to draw: median .* 90 % within"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Wait in the queue: median"))).to_be_visible()
    cells = row(page, "Keys", "local")
    assert [cells[4], cells[5], cells[6]] == [str(summary["request_count"]), "0", str(summary["pictures"])]
    page.get_by_label("Endpoint").select_option("fal-ai/flux/dev")
    expect(page.get_by_role("img", name="Pictures an hour: 1 in 24 hours")).to_be_visible()
    page.get_by_role("button", name="7 days").click()
    expect(page.get_by_role("img", name="Pictures a day: 1 in 7 days").locator(".bar")).to_have_count(7)


def test_models_are_listed_with_licence_and_place(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url)
    expect(page.get_by_role("region", name="Models")).to_be_visible()
    assert row(page, "Models", "impasto-mini")[1:4:2] == ["Apache-2.0", "loaded"]
    assert row(page, "Models", "flux.1-dev")[1] == "FLUX.1 [dev] Non-Commercial License"
    assert "impasto models pull flux.1-dev" in row(page, "Models", "flux.1-dev")


def test_a_webhook_that_fails_is_listed_and_sent_again(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url)
    hooks = page.get_by_role("region", name="Webhooks")
    expect(hooks).to_contain_text("No connection")
    tries = int(row(page, "Webhooks", NOWHERE)[3])
    hooks.get_by_role("button", name="Send again").click()
    expect(page.get_by_text("It is sent again")).to_be_visible()
    cell = hooks.get_by_role("row", name=NOWHERE).get_by_role("cell").nth(3)
    expect(cell).not_to_have_text(str(tries))
    page.get_by_role("button", name="Delivered").click()
    expect(page.get_by_text("None is in this state.")).to_be_visible()
    page.get_by_role("button", name="Due", exact=True).click()
    hooks.get_by_role("link").click()
    expect(page.get_by_role("region", name="Tries of the webhook")).to_contain_text("No connection")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_no_serious_violation_where_there_is_something_to_see(visit: Visit, busy: Any, dark: bool) -> None:
    request_id = ask(busy.url, "/v1/requests?q=told")["items"][0]["request_id"]
    for path, seen in (("/dashboard", "Webhooks"), (f"/history/{request_id}", "Tries of the webhook")):
        page = visit(path, origin=busy.url, dark=dark)
        expect(page.get_by_role("region", name=seen)).to_be_visible()
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
        assert [v["id"] for v in found.response["violations"] if v["impact"] in {"serious", "critical"}] == []


def test_nothing_on_the_dashboard_is_wider_than_a_phone(visit: Visit, busy: Any) -> None:
    page = visit("/dashboard", origin=busy.url, width=360)
    expect(page.get_by_role("region", name="Webhooks")).to_be_visible()
    expect(page.get_by_role("region", name="Models")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# ---------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def locked(serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """A server that asks for keys, and an ADMIN one."""
    folder: Path = tmp_path_factory.mktemp("locked")
    command = [sys.executable, "-m", "impasto.cli", "keys", "create", "boss", "--scope", "ADMIN", "--data", str(folder)]
    key = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    server = serve(folder, IMPASTO_AUTH_MODE="keys")
    yield server, key
    assert server.stop() == 0


def use(page: Page, key: str) -> None:
    """Give the page a key, with which it is loaded anew."""
    page.get_by_label("Key", exact=True).fill(key)
    with page.expect_event("load"):
        page.get_by_role("button", name="Save").click()


def test_a_server_with_keys_asks_for_one_and_keeps_it_in_the_browser(visit: Visit, locked: tuple[Any, str]) -> None:
    server, key = locked
    page = visit("/", origin=server.url, expected=(401,))
    page.get_by_label("Prompt", exact=True).fill("a red apple")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("This server asks for a key.")).to_be_visible()
    use(page, key)
    expect(page.get_by_role("button", name="Key set")).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("[data-state=done]")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Key set")).to_be_visible()


def test_keys_are_made_shown_once_and_revoked(visit: Visit, locked: tuple[Any, str]) -> None:
    server, key = locked
    page = visit("/dashboard", origin=server.url, expected=(401,))
    use(page, key)
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


def test_a_key_without_the_scope_is_told_which_it_needs_and_is_not_asked_again_and_again(
    visit: Visit, locked: tuple[Any, str]
) -> None:
    server, boss = locked
    plain = ask(server.url, "/v1/keys", {"alias": "plain"}, key=boss)["key"]
    page = visit("/history", origin=server.url, expected=(401, 403))
    use(page, plain)
    expect(page.get_by_text("Nothing yet")).to_be_visible()
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 403 else None)
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Dashboard")
    expect(page.get_by_role("alert")).to_contain_text("impasto keys create NAME --scope ADMIN")
    page.wait_for_timeout(2500)  # a look later
    assert len(refused) == 1
    page.get_by_role("button", name="Use another key").click()
    use(page, boss)
    expect(page.locator(".tile")).to_have_count(4)


def test_a_wrong_key_is_said_to_be_unknown(visit: Visit, locked: tuple[Any, str]) -> None:
    server, _ = locked
    page = visit("/history", origin=server.url, expected=(401,))
    use(page, "no:such")
    expect(page.get_by_text("The server does not know this key.")).to_be_visible()


def test_an_admin_looks_into_the_request_of_another_key(visit: Visit, locked: tuple[Any, str]) -> None:
    server, boss = locked
    plain = ask(server.url, "/v1/keys", {"alias": "somebody"}, key=boss)["key"]
    ask(server.url, "/fal-ai/flux-pro", {"prompt": "of somebody", "num_inference_steps": 2}, key=plain)
    page = visit("/history", origin=server.url, expected=(401,))
    use(page, boss)
    page.get_by_role("link", name="of somebody").click()
    page.locator("details.log summary").click()
    expect(page.locator("details.log")).to_contain_text("step 2/2")
