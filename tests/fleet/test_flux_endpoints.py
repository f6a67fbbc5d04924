"""The endpoints of each FLUX.1 checkpoint through dispatcher, runner and a small checkpoint of that kind."""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from twins import made, transformer_params

from impasto.flux.models import FLUX1_CANNY, FLUX1_DEPTH, FLUX1_DEV, FLUX1_FILL, FLUX1_KONTEXT, ModelSpec
from impasto.flux.transformer import Flux
from impasto.settings import LoraSettings, ModelSettings
from impasto.store.records import Outcome

from ..checkpoints import write_single
from .conftest import House, make_settings, open_house

FEW = {"num_inference_steps": 10, "output_format": "png", "seed": 7}
SIDE = 64


def uri(pixels: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def photo(width: int = SIDE, height: int = SIDE) -> np.ndarray[Any, Any]:
    soft = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(soft).resize((width, height), Image.Resampling.BICUBIC))


def right_half(width: int = SIDE, height: int = SIDE) -> np.ndarray[Any, Any]:
    mask = np.zeros((height, width, 3), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def box() -> np.ndarray[Any, Any]:
    """Something with edges, in colour."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[8:24, 16:60] = (200, 40, 90)
    return pixels


def grey() -> np.ndarray[Any, Any]:
    return np.repeat(np.tile(np.linspace(0, 200, SIDE, dtype=np.uint8), (SIDE, 1))[..., None], 3, axis=2)


def store_lora(path: Path, spec: ModelSpec, *, wide: int = 0, odd: bool = False) -> None:
    with torch.device("meta"):
        layers = {n: m for n, m in Flux(transformer_params(spec)).named_modules() if isinstance(m, nn.Linear)}
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {"odd.lora_A.weight": torch.zeros(1, 1)} if odd else {}
    for name, layer in layers.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(4, layer.in_features + wide, generator=generator) * 0.2
        tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.2
    save_file(tensors, path)


@contextlib.asynccontextmanager
async def house_of(spec: ModelSpec, folder: Path) -> AsyncIterator[House]:
    """A server of that checkpoint, with LoRAs: a.safetensors, b.safetensors (with an odd key), wide.safetensors."""
    names = {FLUX1_DEV: "flux1-dev-small.safetensors", FLUX1_KONTEXT: "flux1-kontext-small.safetensors"}
    names |= {FLUX1_CANNY: "flux1-canny-small.safetensors", FLUX1_DEPTH: "flux1-depth-small.safetensors"}
    path = write_single(folder / "model", made(spec), name=names.get(spec, "flux1-fill-small.safetensors"))
    loras = folder / "loras"
    loras.mkdir()
    store_lora(loras / "a.safetensors", spec)
    store_lora(loras / "b.safetensors", spec, odd=True)
    store_lora(loras / "wide.safetensors", spec, wide=8)
    settings = make_settings(folder / "data").model_copy(
        update={
            "model": ModelSettings(name=str(path), threads=1, device="cpu"),
            "lora": LoraSettings(folder=loras, hub=""),
        }
    )
    async with open_house(settings) as house:
        await house.until_ready()
        yield house


async def drawn(house: House, endpoint: str, **input_: Any) -> np.ndarray[Any, Any]:
    _, result = await house.ended(await house.submit(endpoint=endpoint, **{**FEW, **input_}))
    assert result.http_status == 200, result.payload
    (data,) = house.file_bytes(result)
    pixels = np.array(Image.open(io.BytesIO(data)))
    (image,) = result.payload["images"]
    assert pixels.shape == (image["height"], image["width"], 3)
    return pixels


async def refused(house: House, endpoint: str, **input_: Any) -> tuple[list[str], str, str]:
    request, result = await house.ended(await house.submit(endpoint=endpoint, **{**FEW, **input_}))
    assert (request.outcome, result.http_status) == (Outcome.ERROR, 422), result.payload
    (item,) = result.payload["detail"]
    return item["loc"], item["type"], item["msg"]


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return np.array_equal(one, other)


SQUARE = {"image_size": {"width": SIDE, "height": SIDE}}


async def test_the_endpoints_of_dev(tmp_path: Path) -> None:
    picture, mask = uri(photo()), uri(right_half())
    async with house_of(FLUX1_DEV, tmp_path) as house:
        plain = await drawn(house, "fal-ai/flux/dev", **SQUARE)
        for id_ in ("fal-ai/flux/srpo", "fal-ai/flux-krea-lora", "fal-ai/flux-general"):
            assert same(await drawn(house, id_, guidance_scale=3.5, **SQUARE), plain), id_

        base = await drawn(house, "fal-ai/flux-lora/image-to-image", image_url=picture, image_size=None)
        painted = await drawn(house, "fal-ai/flux-lora/inpainting", image_url=picture, mask_url=mask, image_size=None)
        again = await drawn(
            house, "fal-ai/flux-krea-lora/inpainting", image_url=picture, mask_url=mask, image_size=None
        )
        assert painted.shape == (SIDE, SIDE, 3)
        assert same(painted, again)
        assert not same(painted, base)
        loc, type_, said = await refused(
            house, "fal-ai/flux-lora/inpainting", image_url=picture, mask_url=uri(right_half(32, 32))
        )
        assert (loc, type_) == (["body", "mask_url"], "value_error")
        assert "32x32" in said

        general = "fal-ai/flux-general/inpainting"
        given = {"image_url": picture, "mask_url": mask, "image_size": None}
        assert same(await drawn(house, general, **given), painted)
        avoided = await drawn(house, general, **given, use_real_cfg=True, negative_prompt="blurred")
        assert not same(avoided, painted)
        assert not same(await drawn(house, general, **given, use_real_cfg=True), avoided)
        assert not same(await drawn(house, "fal-ai/flux-general", base_shift=2.0, max_shift=3.0, **SQUARE), plain)

        for id_, needed in (
            ("fal-ai/flux-lora-fill", "flux.1-fill-dev"),
            ("fal-ai/flux-lora-canny", "flux.1-canny-dev"),
            ("fal-ai/flux-lora-depth", "flux.1-depth-dev"),
            ("fal-ai/flux-kontext-lora", "flux.1-kontext-dev"),
        ):
            guidance = 30 if id_.endswith("fill") else 3
            given = {"image_url": picture, "mask_url": mask, "image_size": None, "guidance_scale": guidance}
            loc, type_, said = await refused(house, id_, **given)
            assert (loc, type_) == (["body", "image_url"], "feature_not_supported")
            assert f"impasto models pull {needed}" in said


async def test_loras_of_a_real_checkpoint_come_and_go(tmp_path: Path) -> None:
    one, other = {"path": "a.safetensors"}, {"path": "b.safetensors", "scale": 0.5}
    async with house_of(FLUX1_DEV, tmp_path) as house:
        lora = "fal-ai/flux-lora"
        plain = await drawn(house, lora, **SQUARE)
        styled = await drawn(house, lora, loras=[one], **SQUARE)
        both = await drawn(house, lora, loras=[one, other], **SQUARE)
        assert not same(styled, plain)
        assert not same(both, styled)
        loc, type_, said = await refused(house, lora, loras=[one, {"path": "wide.safetensors"}], **SQUARE)
        assert (loc, type_) == (["body", "loras", "1", "path"], "value_error")
        assert "for another model" in said
        assert (await refused(house, lora, loras=[{"path": "no.safetensors"}], **SQUARE))[0][2:] == ["0", "path"]
        assert same(await drawn(house, lora, **SQUARE), plain), "nothing of them is left"
        _, result = await house.ended(await house.submit(endpoint=lora, loras=[other], **FEW, **SQUARE))
        assert "odd.lora_A.weight" in result.headers["X-Impasto-Warnings"]


async def test_the_endpoint_of_fill(tmp_path: Path) -> None:
    fill, picture = "fal-ai/flux-lora-fill", photo(70, 66)
    given = {"image_url": uri(picture), "mask_url": uri(right_half(70, 66)), "image_size": None}
    async with house_of(FLUX1_FILL, tmp_path) as house:
        whole = await drawn(house, fill, **given, resize_to_original=True)
        assert whole.shape == picture.shape
        assert same(whole[:, :35], picture[:, :35]), "pasted back to the pixel"
        anew = await drawn(house, fill, **given, resize_to_original=True, paste_back=False)
        assert same(anew[:, 35:], whole[:, 35:])
        assert not same(anew[:, :35], whole[:, :35])
        assert (await drawn(house, fill, **given)).shape == (64, 64, 3), "the nearest multiples of 16"
        assert not same(
            await drawn(house, fill, **given, loras=[{"path": "a.safetensors"}]), await drawn(house, fill, **given)
        )
        loc, type_, said = await refused(house, fill, **given, fill_image={"fill_image_url": uri(picture)})
        assert (loc, type_) == (["body", "fill_image", "fill_image_url"], "feature_not_supported")
        assert "flux.1-redux-dev" in said


@pytest.mark.parametrize(("spec", "kind"), [(FLUX1_CANNY, "canny"), (FLUX1_DEPTH, "depth")], ids=["canny", "depth"])
async def test_the_endpoint_of_a_control_model(tmp_path: Path, spec: ModelSpec, kind: str) -> None:
    pixels = box() if kind == "canny" else grey()
    turned = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    async with house_of(spec, tmp_path) as house:
        id_ = f"fal-ai/flux-lora-{kind}"
        plain = await drawn(house, id_, image_url=uri(pixels), image_size=None)
        assert plain.shape == (SIDE, SIDE, 3)
        assert not same(await drawn(house, id_, image_url=uri(turned), image_size=None), plain)
        styled = await drawn(house, id_, image_url=uri(pixels), image_size=None, loras=[{"path": "a.safetensors"}])
        assert not same(styled, plain)


async def test_the_endpoints_of_kontext(tmp_path: Path) -> None:
    """What a picture changes is held to diffusers elsewhere; each costs a megapixel of context."""
    picture, one = uri(photo()), [{"path": "a.safetensors"}]
    async with house_of(FLUX1_KONTEXT, tmp_path) as house:
        words = await drawn(house, "fal-ai/flux-kontext-lora/text-to-image", **SQUARE)
        assert not same(await drawn(house, "fal-ai/flux-kontext-lora/text-to-image", loras=one, **SQUARE), words)
        edited = await drawn(house, "fal-ai/flux-kontext-lora", image_url=picture, loras=one)
        inpaint = {"image_url": picture, "mask_url": uri(right_half()), "reference_image_url": uri(grey())}
        painted = await drawn(house, "fal-ai/flux-kontext-lora/inpaint", **inpaint)
        assert edited.shape == painted.shape == (SIDE, SIDE, 3)
        assert not same(edited, painted)
