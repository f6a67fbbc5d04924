"""A file is named by its token, whatever the host; a stored result gets the base of the request that asks for it."""

from typing import Any

import pytest

from impasto.files.urls import file_url, moved, token_of

TOKEN = "b/0a1b2c3d/AbCdEfGhIjKlMnOpQrStUv.png"


@pytest.mark.parametrize("base", ["http://a", "https://a:1/", "http://[::1]:8000", "https://a.example/files/x"])
def test_the_token_of_a_file_url_is_found_under_every_base(base: str) -> None:
    assert token_of(file_url(base, TOKEN)) == TOKEN
    assert token_of(file_url(base, TOKEN) + "?identity=1.x#f") == TOKEN


@pytest.mark.parametrize(
    "url",
    [f"ftp://a/files/{TOKEN}", f"http://a/{TOKEN}", f"http://a/files/{TOKEN}/x", f"http://a/?/files/{TOKEN}", "http://[",
     f"/files/{TOKEN}", f"data:,/files/{TOKEN}", "http://a/files/b/0a1b2c3d/../x.png", "", f"http://a/files/{TOKEN}%00"],
)  # fmt: skip
def test_nothing_else_names_a_token(url: str) -> None:
    assert token_of(url) is None


def test_urls_of_a_result_move_to_another_base_and_nothing_else_does() -> None:
    old, new = "http://impasto:8000", "https://draw.example/x/"

    def output(base: str) -> dict[str, Any]:
        url = file_url(base, TOKEN)
        return {"images": [{"url": url, "width": 1}, {"url": "data:image/png;base64,AA=="}], "deep": {"a": [[url]]}}

    same = {"prompt": file_url(old, TOKEN), "seed": 7, "note": f"see {file_url(old, TOKEN)}", "other": f"{old}/files/x"}
    stored = output(old) | same
    assert moved(stored, before=old, after=new) == output(new) | same
    assert stored == output(old) | same, "the stored one is not touched"
    assert moved(stored, before=old + "/", after=old) is stored
