"""The frame of safetensors files: what the official reader refuses is refused, and other files are named."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open

from impasto.errors import WeightsError
from impasto.flux import frame, kinds

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def official(path: Path) -> bool:
    """Whether the official reader takes the file."""
    try:
        with safe_open(path, framework="pt") as file:
            return bool(list(file.keys()) or True)
    except SafetensorError:
        return False


@pytest.mark.parametrize(
    ("header", "size", "said"),
    [
        ({"a": F32, "b": F32}, 8, "overlap"),
        ({"a": F32, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12, "overlap"),
        ({"a": F32, "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, 16, "4 bytes before b belong"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8, "4 bytes before a belong"),
        ({"a": F32}, 9, "1 bytes behind the last tensor"),
        ({"a": F32}, 7, "ends inside a"),
        ({"a": F32 | {"shape": [3]}}, 8, "does not have the bytes"),
        ({"a": F32 | {"shape": [2.0]}}, 8, "no whole number"),
        ({"a": F32 | {"shape": [-2, -1]}}, 8, "does not have the bytes"),
        ({"a": F32 | {"shape": [2**63, 2**63]}}, 8, "no shape of a tensor"),
        ({"a": F32 | {"data_offsets": [8, 0]}}, 8, "does not have the bytes"),
        ({"a": F32 | {"data_offsets": [False, 8]}}, 8, "no whole number"),
        ({"a": F32, "__metadata__": {"n": 1}}, 8, "a value is no text"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "a": {}}', 8, "names a twice"),
        (b"[" * 100_000, 0, "its header is no JSON"),
    ],
)  # fmt: skip
def test_a_header_that_contradicts_its_bytes_is_refused(
    tmp_path: Path, header: dict[str, Any] | bytes, size: int, said: str
) -> None:
    path = written(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(WeightsError, match=said) as caught:
        frame.read(path)
    assert caught.value.message.startswith(f"{path}: ")
    if not isinstance(header, bytes) and size != 7:
        assert not official(path)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 66_176, 0x4B50, 0x8B1F])
def test_the_frame_decides_before_the_first_bytes_look_like_another_format(tmp_path: Path, length: int) -> None:
    """A header's length may begin with the bytes of a pickle (80 02 … 80 05), a zip archive or gzip."""
    text = json.dumps({"a": F32}).encode()
    path = written(tmp_path / "x.safetensors", text + b" " * (length - len(text)), bytes(8))
    assert frame.read(path).items["a"].shape == (2,)
    assert official(path)


def test_empty_tensors_take_no_bytes(tmp_path: Path) -> None:
    empty = {"dtype": "F32", "shape": [0, 3], "data_offsets": [8, 8]}
    path = written(tmp_path / "x.safetensors", {"b": empty, "a": F32, "c": empty}, bytes(8))
    assert list(frame.read(path).items) == ["b", "a", "c"]
    assert official(path)


def zipped(name: str, data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, data)
    return made.getvalue()


def saved() -> bytes:
    made = io.BytesIO()
    torch.save({"a": torch.ones(2)}, made)
    return made.getvalue()


@pytest.mark.parametrize(
    ("data", "name", "said"),
    [
        (b"", "x.safetensors", "empty; fetch it again"),
        (b"GGUF\x03\x00\x00\x00", "x.safetensors", "a GGUF file"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "x.safetensors",
            "Git LFS pointer.*lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>", "x.safetensors", "a web page"),
        (b'<?xml version="1.0"?><Error/>', "x.safetensors", "an XML document"),
        (b'{"error": "Unauthorized"}', "x.safetensors", "a JSON document"),
        (pickle.dumps({"a": 1}), "x.safetensors", "a pickle"),
        (saved(), "x.safetensors", "a pickle .as torch.save"),
        (b"garbage", "x.ckpt", "a pickle"),
        (zipped("lora.safetensors", b"0" * 40), "x.safetensors", "a zip archive; unpack"),
        (gzip.compress(b"0" * 40), "x.safetensors", "gzip; unpack"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "x.safetensors", "HDF5"),
        (b"\x08\x07\x12\x07pytorch", "x.safetensors", "ONNX"),
        (b"\x82\xa6params\x81", "x.safetensors", "Flax"),
        (b"\x89PNG\r\n\x1a\n", "x.safetensors", "an image"),
    ],
)
def test_a_file_of_another_format_is_named_with_what_to_fetch(
    tmp_path: Path, data: bytes, name: str, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=rf"x\.\w+: not a safetensors file: it is .*{said}"):
        frame.read(path)


def test_a_download_that_was_cut_is_no_other_format(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.safetensors", {"a": F32, "__metadata__": {"title": "x" * 600}}, bytes(8)).read_bytes()
    for size in (9, 100, len(whole) - 1):
        (tmp_path / "x.safetensors").write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="not a complete safetensors file"):
            frame.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("double_blocks.0.img_attn.qkv.weight.quant_state.bitsandbytes__nf4", "NF4"),
        ("double_blocks.0.img_attn.qkv.weight.absmax", "bitsandbytes"),
        ("double_blocks.0.img_attn.qkv.SCB", "int8 of bitsandbytes"),
        ("double_blocks.0.img_attn.qkv.weight._data", "quanto"),
        ("transformer_blocks.0.attn.to_q.qweight", "GPTQ"),
        ("transformer_blocks.0.qkv_proj.wscales", "SVDQuant"),
        ("double_blocks.0.img_attn.qkv.weight_scale_inv", "block-scaled fp8"),
        ("double_blocks.0.img_attn.qkv.weight_scale_2", "4-bit"),
        ("_weight_qdata", "torchao"),
    ],
)
def test_weights_that_are_packed_are_named(name: str, said: str) -> None:
    kind = kinds.of_names(["img_in.weight", name])
    assert kind is not None
    assert said in str(kind)
    assert "fetch the file in 16 bits" in str(kind)
    assert kinds.of_names(["img_in.weight", "double_blocks.0.img_attn.norm.query_norm.scale", "x.weight_scale"]) is None
