"""Weights that visit the device: the same picture to the bit, two slots, and every weight where it was afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from impasto.flux import offload, placing, t5clip, weights
from impasto.flux.checkpoint import locate
from impasto.flux.linear import Side, Sides, Up, attached
from impasto.flux.models import TransformerParams
from impasto.flux.pipeline import Pipeline
from impasto.flux.residency import Residency, spread
from impasto.flux.transformer import Flux

from ..checkpoints import Made, made, write_diffusers, write_single

CPU = torch.device("cpu")
BF16 = weights.Target(CPU, torch.bfloat16)
MODULATION = Residency(modulation_on_host=True)
LAYERS = Residency(modulation_on_host=True, streamed=3)
SOME = Residency(streamed=2)
every_residency = pytest.mark.parametrize("residency", [MODULATION, SOME, LAYERS], ids=lambda it: it.words)


@dataclass
class Counted:
    """Copies that are counted, and that judge the order in which they are asked for."""

    started: list[tuple[int, int]] = field(default_factory=list)  # slot, bytes
    reading: set[int] = field(default_factory=set)

    def start(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        assert slot not in self.reading, "a slot is filled while its module still reads it"
        for place, weight in pairs:
            assert place.data_ptr() % 64 == 0, "as torch aligns its own"
            place.copy_(weight)
        self.started.append((slot, sum(weight.nbytes for _, weight in pairs)))

    def wait(self, slot: int) -> None:
        self.reading.add(slot)

    def release(self, slot: int) -> None:
        self.reading.discard(slot)


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


@pytest.fixture(scope="module")
def file(parts: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(tmp_path_factory.mktemp("single"), parts, name="x.safetensors", dtype=torch.bfloat16)


def inputs(params: TransformerParams, *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    times = torch.full((1,), 0.6)
    return (
        normal(1, 24, params.in_channels), torch.zeros(24, 3), normal(1, 8, params.context_in_dim), torch.zeros(8, 3),
        times, normal(1, params.vec_in_dim), torch.full((1,), 3.5),
    )  # fmt: skip


def run(model: Flux, sides: Sides | None = None, *, seed: int = 0) -> Tensor:
    with torch.inference_mode(), attached(model, sides or {}):
        return model(*inputs(model.params, seed=seed))


def lora(model: Flux) -> dict[str, Side]:
    """A branch on a layer of every kind."""
    sides: dict[str, Side] = {}
    generator = torch.Generator().manual_seed(5)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and "_blocks" in name:
            down = torch.randn(4, layer.in_features, generator=generator)
            up = torch.randn(layer.out_features, 4, generator=generator) * 0.1
            sides[name] = Side(down, (Up(slice(0, layer.out_features), slice(0, 4), up),))
    return sides


@every_residency
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_visiting_weights_draw_what_resident_ones_draw_to_the_bit(
    file: Path, residency: Residency, dtype: torch.dtype
) -> None:
    target = weights.Target(CPU, dtype)
    resident = weights.load_transformer(locate(file), target)
    visiting = placing.load_transformer(locate(file), target, residency, copies=Counted())
    for seed in range(3):
        assert torch.equal(run(visiting, seed=seed), run(resident, seed=seed))
    sides = {name: Side(s.down.to(dtype), tuple(Up(u.rows, u.ranks, u.weight.to(dtype)) for u in s.ups))
             for name, s in lora(resident).items()}  # fmt: skip
    changed = run(visiting, sides)
    assert torch.equal(changed, run(resident, sides))
    assert not torch.equal(changed, run(resident))
    assert torch.equal(run(visiting), run(resident)), "a LoRA taken away leaves nothing behind"


@every_residency
def test_a_whole_picture_is_the_same_to_the_bit(file: Path, residency: Residency) -> None:
    """Through the pipeline: several steps, two samples in turn, two passes a step."""

    def pictures(pipeline: Pipeline) -> list[Tensor]:
        both = pipeline.encode("a red fox", negative="blurry")
        runs = [
            pipeline.denoise(both, seed=3, index=i, height=64, width=96, steps=3, guidance=3.5, cfg=2.0) for i in (0, 1)
        ]
        return [step.latents for turn in zip(*runs, strict=True) for step in turn]

    load = {"device": "cpu", "dtype": torch.float32, "threads": 1}
    resident, visiting = Pipeline.load(file, **load), Pipeline.load(file, **load, residency=residency)  # type: ignore[arg-type]
    for ours, theirs in zip(pictures(visiting), pictures(resident), strict=True):
        assert torch.equal(ours, theirs)


def test_each_weight_travels_once_a_step_and_the_next_one_ahead_of_its_turn(file: Path) -> None:
    copies = Counted()
    model = placing.load_transformer(locate(file), weights.CPU, LAYERS, copies=copies)
    with torch.device("meta"):
        blank = Flux(model.params)
    sizes = [
        sum(p.nbytes for name, p in module.named_parameters() if offload.visits(name, p))
        for circuit in offload.guests(blank, LAYERS)
        for module in circuit.values()
    ]
    with torch.inference_mode():
        img, img_ids, txt, txt_ids, times, y, guidance = inputs(model.params)
        mods = model.modulate(model.vector(times, y, guidance))
        words, pe = model.context(txt), model.positions(txt_ids, img_ids)
        assert [size for _, size in copies.started] == [*sizes[:4], sizes[0]], "four modulations, then the first again"
        copies.started.clear()
        for _ in range(2):
            model.velocity(img, words, pe, mods)
    assert [size for _, size in copies.started] == [*sizes[4:], *sizes[4:], sizes[4]]
    slots = [slot for slot, _ in copies.started]
    assert all(a != b for a, b in pairwise(slots)), "the slots take turns"


def test_two_slots_of_the_largest_guest_are_all_the_room_it_takes(file: Path) -> None:
    model = placing.load_transformer(locate(file), weights.CPU, Residency())
    stream = offload.install(model, LAYERS, CPU)
    assert stream is not None
    largest = max(
        sum(p.nbytes for name, p in block.named_parameters() if offload.visits(name, p))
        for block in (*model.double_blocks, *model.single_blocks)
    )
    assert largest <= stream.slot_bytes < largest + 16 * offload.ALIGNMENT


@every_residency
def test_weights_are_at_home_between_the_steps_also_after_an_error(file: Path, residency: Residency) -> None:
    model = placing.load_transformer(locate(file), weights.CPU, residency)
    home = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    run(model)
    with torch.inference_mode():
        img, img_ids, txt, txt_ids, times, y, guidance = inputs(model.params)
        mods = model.modulate(model.vector(times, y, guidance))
        words, bad = model.context(txt), model.positions(txt_ids, img_ids[:-1])
        with pytest.raises(RuntimeError, match="must match the size"):
            model.velocity(img, words, bad, mods)
    after = model.state_dict()
    assert {key: tensor.data_ptr() for key, tensor in after.items()} == home
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert torch.equal(run(model), run(weights.load_transformer(locate(file), weights.CPU)))


def test_mapped_weights_are_the_files_own_bytes_where_they_are_what_is_wanted(
    file: Path, parts: Made, tmp_path: Path
) -> None:
    mapped = Residency(modulation_on_host=True, streamed=3, mapped=True)
    folder = write_diffusers(tmp_path / "flux", parts, dtype=torch.bfloat16)
    for source, fused_is_mapped in ((file, True), (folder, False)):
        found = locate(source)
        resident = weights.build(
            lambda found=found: Flux(found.spec.transformer),
            {key: tensor.clone() for key, tensor in weights.transformer_tensors(found).items()},
            name="copied",
            target=BF16,
        )
        for residency in (mapped, LAYERS):
            model = placing.load_transformer(found, BF16, residency)
            assert torch.equal(run(model), run(resident))
            home = model.state_dict()
            assert is_mapped(home["double_blocks.0.img_mlp.0.weight"]) == residency.mapped
            assert is_mapped(home["double_blocks.0.img_attn.qkv.weight"]) == (residency.mapped and fused_is_mapped)


def is_mapped(tensor: Tensor) -> bool:
    """Whether its memory is a mapping of a file: torch cannot resize what it did not allocate."""
    return not tensor.untyped_storage().resizable()


@pytest.mark.parametrize(("total", "count"), [(57, 0), (57, 1), (57, 10), (57, 57), (3, 2)])
def test_the_blocks_that_are_away_are_spread_evenly(total: int, count: int) -> None:
    found = spread(total, count)
    assert len(set(found)) == count
    assert all(0 <= i < total for i in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_a_visiting_t5_reads_what_a_resident_one_reads_to_the_bit(file: Path) -> None:
    ids = torch.tensor([[3, 9, 2, 7, 1, 0, 0, 0], [5, 1, 0, 0, 0, 0, 0, 0]])
    for dtype in (torch.float32, torch.bfloat16):
        target = weights.Target(CPU, dtype)
        resident, copies = t5clip.load_t5(locate(file), target), Counted()
        visiting = t5clip.visiting_t5(locate(file), target, copies=copies)
        with torch.inference_mode():
            for _ in range(2):
                assert torch.equal(visiting(ids), resident(ids))
        blocks = len(visiting.encoder.block)
        assert len(copies.started) == 2 * blocks, "each block once a prompt, none of them for nothing"
        assert sum(size for _, size in copies.started) == 2 * sum(
            p.nbytes for block in resident.encoder.block for name, p in block.named_parameters() if p.ndim == 2
            and "relative_attention_bias" not in name
        )  # fmt: skip


def test_the_slots_of_t5_are_there_while_it_reads_only_and_gone_after_an_error(file: Path) -> None:
    model = t5clip.load_t5(locate(file), BF16)
    stream = offload.install_text(model, CPU)
    home = {key: tensor.data_ptr() for key, tensor in model.state_dict().items()}
    seen: list[int] = []
    model.encoder.block[1].register_forward_pre_hook(lambda *_: seen.append(stream.slot_bytes))

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    with torch.inference_mode():
        wanted = model(torch.tensor([[3, 1]]))
        handle = model.encoder.block[1].layer[1].register_forward_pre_hook(broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(torch.tensor([[3, 1]]))
        handle.remove()
        assert {key: tensor.data_ptr() for key, tensor in model.state_dict().items()} == home
        assert torch.equal(model(torch.tensor([[3, 1]])), wanted)
    assert len(seen) == 3
    assert min(seen) > 0
    assert stream.slot_bytes == 0


def test_a_prompt_is_read_the_same_with_the_text_encoder_on_the_host(file: Path) -> None:
    load = {"device": "cpu", "dtype": torch.float32, "threads": 1}
    near, far = (Pipeline.load(file, **load, residency=Residency(text_on_host=away)) for away in (False, True))  # type: ignore[arg-type]
    for words in ("a red fox", "", "two cats " * 300):
        ours, theirs = far.encode(words, negative="blurry"), near.encode(words, negative="blurry")
        assert torch.equal(ours.txt, theirs.txt)
        assert torch.equal(ours.vec, theirs.vec)


class Cudart:
    """CUDA's registry of locked memory: what is locked already cannot be locked again."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.full = False

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if self.full or address in self.locked:
            return 712
        self.locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0


def test_page_locked_memory_is_let_go_with_its_weights(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cudart, forgotten = Cudart(), list[bool]()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
    monkeypatch.setattr(placing, "_forget_error", lambda: forgotten.append(True))
    weight = torch.randn(3, 5)
    copy = placing.page_locked(weight, torch.bfloat16)
    assert torch.equal(copy, weight.bfloat16())
    assert cudart.locked == {copy.data_ptr(): copy.nbytes}
    parameter = torch.nn.Parameter(copy, requires_grad=False)
    del copy
    assert len(cudart.locked) == 1  # another view of the same memory
    del parameter
    assert cudart.locked == {}
    cudart.full = True
    assert torch.equal(placing.page_locked(weight), weight)
    assert forgotten == [True]
    assert "60 bytes of weights could not be page-locked (CUDA error 712)" in caplog.text
