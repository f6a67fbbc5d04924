"""What a plan counts with is what is there: weights to the byte, pictures in the making by a real run's live bytes."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from impasto.flux import footprint, offload, placing, quantise, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import locate
from impasto.flux.encoders import T5
from impasto.flux.models import FLUX1_DEV, T5Params
from impasto.flux.residency import Kept, Residency
from impasto.flux.transformer import Flux

from ..checkpoints import made, write_single
from .test_offload import BF16
from .test_published import PUBLISHED


class Live(TorchDispatchMode):
    """The bytes of all tensors that were made within and are still there; `peak` is the most at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in known | self.seen:
                self.add(leaf.untyped_storage())
        return out

    def add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        self.seen.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, address, size)

    def drop(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.now -= size


SMALL = replace(FLUX1_DEV.transformer, hidden_size=384, num_heads=3, depth=1, depth_single_blocks=2, context_in_dim=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_a_step_takes_what_is_counted(dtype: torch.dtype) -> None:
    model = Flux(SMALL).to(dtype).eval()
    text, side = 128, 24
    img, ids = torch.randn(1, side * side, 64), torch.zeros(side * side, 3)
    mods = model.modulate(model.vector(torch.ones(1), torch.randn(1, 768), torch.ones(1)))
    words, pe = model.context(torch.randn(1, text, 64)), model.positions(torch.zeros(text, 3), ids)
    with Live() as live:
        model.velocity(img, words, pe, mods)
    counted = footprint.step(SMALL, tokens=text + side * side, itemsize=dtype.itemsize)
    assert counted / 1.1 < live.peak <= counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_reading_a_prompt_from_the_host_takes_what_is_counted(dtype: torch.dtype) -> None:
    params, tokens = T5Params(d_model=256, d_ff=640, d_kv=32, num_heads=8, num_layers=3, vocab_size=500), 128
    model = T5(params).to(dtype).eval().requires_grad_(requires_grad=False)
    model.encoder.embed_tokens.weight = model.shared.weight
    away = sum(model.get_parameter(key).nbytes for key in offload.text_away(model))
    offload.install_text(model, torch.device("cpu"))
    with Live() as live:
        model(torch.zeros(1, tokens, dtype=torch.long))
    moved, reading = footprint.text(params, tokens=tokens, itemsize=dtype.itemsize)
    assert moved == away
    assert (reading - footprint.SLACK) / 1.15 < live.peak <= reading - footprint.SLACK
    near = sum(p.nbytes for p in model.parameters()) - away
    assert near < 0.01 * away, "norms and the table of positions"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_decoding_takes_what_is_counted(dtype: torch.dtype) -> None:
    params = replace(FLUX1_DEV.autoencoder, ch=32)
    model = Autoencoder(params).to(dtype).eval().channels_last()
    with Live() as live:
        model.decode(torch.randn(1, 16, 16, 24))
    counted = footprint.decoding(params, (128, 192), dtype.itemsize)
    assert counted / 1.3 < live.peak <= counted


KEPT: tuple[Kept, ...] = ("full", "int8", "fp8")


@pytest.mark.parametrize("kept", KEPT)
def test_weights_are_counted_to_the_byte(kept: Kept, tmp_path: Path) -> None:
    """The count on the meta device against what a loaded model holds: near, away, and the slots."""
    found = locate(write_single(tmp_path, made(), name="x.safetensors", dtype=torch.bfloat16))
    tensors = weights.transformer_tensors(found)
    counted = footprint.transformer(found.spec.transformer, itemsize=2, narrow=quantise.layers(tensors, kept))
    for streamed in (0, 1, 2, 3):
        residency = Residency(kept=kept, modulation_on_host=streamed > 1, streamed=streamed)
        model = placing.load_transformer(found, BF16, residency)
        held = sum(parameter.nbytes for parameter in model.parameters())
        # Scales are float32 when they are counted, and so they are when they are held.
        assert counted.whole == held
        away = placing.offload.away(Flux(found.spec.transformer), residency)
        assert counted.away(residency) == sum(model.get_parameter(key).nbytes for key in away)
        sizes = [sum(p.nbytes for n, p in module.named_parameters() if placing.offload.visits(n, p))
                 for circuit in placing.offload.guests(model, residency) for module in circuit.values()]  # fmt: skip
        largest = 0 if kept == "full" else 2 * 128 * 128 * 7
        assert counted.near(residency) == held - counted.away(residency) + 2 * max(sizes, default=0) + largest


def test_flux1_dev_at_full_size() -> None:
    """23.8 GB in bf16, half of that in 8 bits, two blocks when its layers visit."""
    bf16 = footprint.transformer(FLUX1_DEV.transformer, itemsize=2)
    assert bf16.whole == PUBLISHED["dev"]["transformer_bytes"]
    with torch.device("meta"):
        model = Flux(FLUX1_DEV.transformer)
    keys = {name for name, parameter in model.named_parameters() if "_blocks" in name and parameter.ndim == 2}
    narrow = footprint.transformer(FLUX1_DEV.transformer, itemsize=2, narrow=keys)
    assert 11.9e9 < narrow.whole < 12.1e9
    every = Residency(modulation_on_host=True, streamed=57)
    assert bf16.near(every) == bf16.stays + 2 * max(bf16.blocks)
    assert bf16.near(every) < 1.1e9
    assert len(bf16.blocks) == 57
    assert 0.26 < sum(bf16.modulation) / bf16.whole < 0.28, "what one may leave on the host at almost no cost"
