"""fal-ai/flux-lora through dispatcher, runner and the embedded model: a LoRA counts, and only in its own request."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from impasto.flux.models import IMPASTO_MINI
from impasto.flux.transformer import Flux
from impasto.settings import LoraSettings, ModelSettings
from impasto.store.records import FileRecord, Outcome

from .conftest import BASE_URL, make_settings, open_house

SMALL = {"image_size": {"width": 128, "height": 96}, "num_inference_steps": 3, "seed": 7, "output_format": "png"}


def store_lora(path: Path, *, wide: int = 0) -> None:
    with torch.device("meta"):
        layers = {n: m for n, m in Flux(IMPASTO_MINI.transformer).named_modules() if isinstance(m, nn.Linear)}
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        if name.startswith("single_blocks"):
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, layer.in_features + wide, generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 4, generator=generator) * 0.1
    save_file(tensors, path)


async def test_a_request_is_drawn_with_its_loras_and_the_next_one_without(tmp_path: Path) -> None:
    folder = tmp_path / "loras-of-the-house"
    folder.mkdir()
    store_lora(folder / "style.safetensors")
    store_lora(folder / "wide.safetensors", wide=8)
    settings = make_settings(tmp_path / "data").model_copy(
        update={"model": ModelSettings(threads=1, device="cpu"), "lora": LoraSettings(folder=folder, hub="")}
    )
    async with open_house(settings) as house:
        await house.until_ready()
        sums: list[list[str]] = []
        for loras in ([], [{"path": "style.safetensors"}], [], [{"path": "style.safetensors", "scale": 0}]):
            id_ = await house.submit(endpoint="fal-ai/flux-lora", loras=loras, **SMALL)
            request, result = await house.ended(id_)
            assert request.outcome is Outcome.OK, result.payload
            sums.append(house.sums(result))
        plain, styled, again, without = sums
        assert styled != plain
        assert plain == again == without
        for path, said in (("wide.safetensors", "for another model"), ("nothing.safetensors", "no such LoRA")):
            _, result = await house.ended(
                await house.submit(endpoint="fal-ai/flux-lora", loras=[{"path": path}], **SMALL)
            )
            assert result.http_status == 422
            (item,) = result.payload["detail"]
            assert item["loc"] == ["body", "loras", "0", "path"]
            assert said in item["msg"]
        for name in ("style.safetensors", None):  # uploaded, with its name and without
            token = house.blobs.new_token("application/octet-stream", name)
            house.blobs.put(data := (folder / "style.safetensors").read_bytes(), media_type="", token=token)
            await house.store.add_file(FileRecord(token=token, media_type="", size=len(data)))
            path = f"{BASE_URL}/files/{token}"
            _, result = await house.ended(
                await house.submit(endpoint="fal-ai/flux-lora", loras=[{"path": path}], **SMALL)
            )
            assert house.sums(result) == styled
