"""`impasto generate`: the embedded model without a server, the server's bytes, and mistakes that name their remedy."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from impasto.cli import main


def generate(*arguments: str, pipeline: str = "fake") -> Result:
    return CliRunner().invoke(main, ["generate", *arguments], env={"IMPASTO_MODEL_PIPELINE": pipeline})


def test_the_embedded_model_draws_at_the_asked_size(tmp_path: Path):
    target = tmp_path / "apple.png"
    asked = ["--size", "640x480", "--steps", "4", "--seed", "7"]
    ended = generate("a red apple", "-o", str(target), *asked, pipeline="flux")
    assert ended.exit_code == 0, ended.output
    assert f"{target}  640x480, seed 7" in ended.stdout
    with Image.open(target) as picture:
        assert (picture.format, picture.size) == ("PNG", (640, 480))
        assert len(picture.getcolors(maxcolors=640 * 480) or []) > 100  # a picture, not a plain field


def test_several_pictures_get_names_of_their_own_and_the_first_is_that_of_one(tmp_path: Path):
    one, many = tmp_path / "one.jpeg", tmp_path / "many.jpeg"
    assert generate("x", "-o", str(one), "--seed", "7").exit_code == 0
    assert generate("x", "-o", str(many), "--seed", "7", "--num-images", "3").exit_code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["many-2.jpeg", "many-3.jpeg", "many.jpeg", "one.jpeg"]
    contents = {path.read_bytes() for path in tmp_path.glob("many*")}
    assert len(contents) == 3
    assert many.read_bytes() == one.read_bytes()


def test_the_bytes_are_the_server_s(start: Callable[..., Any], tmp_path: Path):
    target = tmp_path / "star.jpeg"
    assert generate("a star", "-o", str(target), "--seed", "9", "--size", "square").exit_code == 0
    server = start()
    server.until_ready()
    body = {"prompt": "a star", "seed": 9, "image_size": "square", "sync_mode": True}
    _, output = server.get("/fal-ai/flux-pro", body=body)
    assert base64.b64decode(output["images"][0]["url"].partition(",")[2]) == target.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "10x10"], ["image_size", "64x64"]),
        (["--size", "huge"], ["image_size", "square_hd"]),
        (["--steps", "99"], ["num_inference_steps", "50"]),
        (["--num-images", "9"], ["num_images", "4"]),
        (["--guidance", "0"], ["guidance_scale", "1"]),
        (["--seed", "-1"], ["seed", "0"]),
        (["-o", "picture.gif"], [".jpeg", ".png"]),
        (["-o", "no/such/folder/x.png"], ["not a folder"]),
        (["--model", "no-such-model"], ["no-such-model"]),
    ],
)
def test_a_mistake_is_one_message_that_names_it_and_nothing_is_written(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    ended = generate("x", *arguments, pipeline="flux")
    assert ended.exit_code in {1, 2}
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output
    assert list(tmp_path.iterdir()) == []


def test_the_picture_is_shown_in_the_terminal_when_it_is_asked_for(tmp_path: Path):
    shown = generate("x", "-o", str(tmp_path / "shown.jpeg"), "--preview")
    assert shown.exit_code == 0
    assert "▀" in shown.stderr
    assert "▀" not in shown.stdout
    assert "▀" not in generate("x", "-o", str(tmp_path / "piped.jpeg")).stderr
