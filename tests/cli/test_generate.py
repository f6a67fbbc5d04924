"""`impasto generate`: the embedded model without a server, the server's bytes, and mistakes that name their remedy."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from impasto.cli import main
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux


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


def test_a_negative_seed_is_drawn_and_printed_as_it_was_given(tmp_path: Path) -> None:
    one, same = tmp_path / "one.png", tmp_path / "same.png"
    ended = generate("x", "-o", str(one), "--seed", "-1", "--size", "square")
    assert (ended.exit_code, "seed -1" in ended.stdout) == (0, True)
    assert generate("x", "-o", str(same), "--seed", str(2**64 - 1), "--size", "square").exit_code == 0
    assert one.read_bytes() == same.read_bytes()


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


def test_a_folder_of_the_output_s_name_is_told_before_anything_is_drawn(tmp_path: Path):
    (tmp_path / "many-2.png").mkdir()
    for asked in (["-o", str(tmp_path / "many-2.png")], ["-o", str(tmp_path / "many.png"), "--num-images", "2"]):
        ended = generate("x", *asked)
        assert ended.exit_code == 2
        assert f"{tmp_path / 'many-2.png'}: is a folder" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["many-2.png"]


def test_the_picture_is_shown_in_the_terminal_when_it_is_asked_for(tmp_path: Path):
    shown = generate("x", "-o", str(tmp_path / "shown.jpeg"), "--preview")
    assert shown.exit_code == 0
    assert "▀" in shown.stderr
    assert "▀" not in shown.stdout
    assert "▀" not in generate("x", "-o", str(tmp_path / "piped.jpeg")).stderr


def write_lora(path: Path, *, wide: int = 0) -> Path:
    """Of the embedded model's shape, or `wide` channels too wide for it."""
    with torch.device("meta"):
        layers = {n: m for n, m in Flux(IMPASTO_MINI.transformer).named_modules() if isinstance(m, nn.Linear)}
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        if name.startswith("single_blocks"):
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, layer.in_features + wide, generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.1
    save_file(tensors, path)
    return path


def test_loras_change_the_picture_by_their_scale(tmp_path: Path):
    lora = write_lora(tmp_path / "style.safetensors")
    asked = ["a red apple", "--size", "128x96", "--steps", "2", "--seed", "7"]
    drawn: dict[str, bytes] = {}
    for name, loras in {
        "plain": [],
        "styled": ["--lora", str(lora)],
        "twice": ["--lora", f"{lora}:0.5", "--lora", f"{lora}:0.5"],
        "without": ["--lora", f"{lora}:0"],
    }.items():
        ended = generate(*asked, "-o", str(tmp_path / f"{name}.png"), *loras, pipeline="flux")
        assert ended.exit_code == 0, ended.output
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["styled"] != drawn["plain"]
    assert drawn["twice"] != drawn["plain"]
    assert drawn["without"] == drawn["plain"]


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ("nothing.safetensors", ["loras", "no such LoRA"]),
        ("{folder}/weights.pt", ["loras", "pickle"]),
        ("{folder}/text.safetensors", ["loras", "not a complete safetensors file"]),
        ("{folder}/wide.safetensors:0.5", ["loras", "for another model"]),
        ("{folder}/wide.safetensors:9", ["scale", "4"]),
        ("http://127.0.0.1:9/x.safetensors", ["loras", "cannot be downloaded"]),
    ],
)
def test_a_lora_that_cannot_be_used_is_named(tmp_path: Path, lora: str, words: list[str]):
    write_lora(tmp_path / "wide.safetensors", wide=8)
    (tmp_path / "text.safetensors").write_text("not one at all")
    (tmp_path / "weights.pt").write_bytes(b"\x80\x02}q\x00.")
    ended = generate(
        "x", "-o", str(tmp_path / "out.png"), "--lora", lora.format(folder=tmp_path), "--steps", "1",
        "--size", "128x96", pipeline="flux",
    )  # fmt: skip
    assert ended.exit_code == 2, ended.output
    assert all(word in ended.output for word in words), ended.output
    assert not (tmp_path / "out.png").exists()
