"""The two loops: a run that was cut is the unbroken run, the loss falls, and what is exported loads strictly."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from impasto.errors import ConfigError, WeightsError
from impasto.flux import checkpoint, checks, weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.models import IMPASTO_MINI, NativeSize, Shift, TransformerParams
from impasto.flux.transformer import Flux
from impasto.flux.vocabulary import Reading
from impasto.training import autoencoder, clock, dataset, export, optimise, pca, recipe, runs, sampling, transformer
from impasto.training.autoencoder import AutoencoderRecipe
from impasto.training.cli import train as command
from impasto.training.clock import Deadline
from impasto.training.compose import Mix
from impasto.training.dataset import Bucket, BucketSize
from impasto.training.sprites import Sprites
from impasto.training.transformer import TransformerRecipe

TOY = TransformerParams(
    in_channels=64,
    out_channels=64,
    vec_in_dim=12,
    context_in_dim=12,
    hidden_size=32,
    mlp_ratio=2.0,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(4, 6, 6),
    theta=10_000,
    qkv_bias=True,
    guidance_embed=False,
)
EMPTY = (torch.zeros(1, 4, 12, dtype=torch.bfloat16), torch.zeros(1, 12, dtype=torch.bfloat16))


@dataclass(frozen=True, slots=True)
class Cut(Deadline):
    """A deadline whose run is interrupted before the given step."""

    at: int = 0

    def over(self, step: int) -> bool:
        return step >= self.at


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _bucket(width: int, height: int, share: float) -> Bucket:
    generator = torch.Generator().manual_seed(width)
    tokens = width * height // 256
    return Bucket(
        size=BucketSize(width, height, 6, share),
        tokens=torch.randn(1, tokens, 64, generator=generator).expand(6, -1, -1).to(torch.bfloat16),
        caption=torch.arange(6) % 3,
        txt=torch.randn(3, 4, 12, generator=generator).to(torch.bfloat16),
        vec=torch.randn(3, 12, generator=generator).to(torch.bfloat16),
    )


BUCKETS = [_bucket(32, 32, 0.7), _bucket(48, 32, 0.3)]


def _toy(kind: str = "muon", **changes: object) -> TransformerRecipe:
    made = TransformerRecipe(params=TOY, shift=Shift(), batch=8, bf16=False, rate=2e-3)
    return replace(made, optimiser=kind, **changes)  # type: ignore[arg-type]


def _same(one: Path, other: Path) -> None:
    first, second = torch.load(one, weights_only=True), torch.load(other, weights_only=True)
    assert first["step"] == second["step"]
    for part in ("model", "average"):
        assert first[part].keys() == second[part].keys()
        for key, tensor in first[part].items():
            assert torch.equal(tensor, second[part][key]), (part, key)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_cut_and_resumed_transformer_run_equals_the_unbroken_one(tmp_path: Path, kind: str) -> None:
    whole = transformer.train(_toy(kind), BUCKETS, EMPTY, tmp_path / "whole", Deadline(steps=6))
    transformer.train(_toy(kind), BUCKETS, EMPTY, tmp_path / "cut", Cut(steps=6, at=3))
    resumed = transformer.train(_toy(kind), BUCKETS, EMPTY, tmp_path / "cut", Deadline(steps=6))
    _same(whole, resumed)


def test_muon_in_float32_is_torchs_muon() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((48, 32), (32, 96), (16, 16))
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    begun = [p.detach().clone() for p in ours]
    settings = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    optimisers = optimise.Float32Muon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other, start in zip(ours, theirs, begun, strict=True):
        assert (one - other).norm() < 0.02 * (one - start).norm()


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    one = transformer.train(_toy(), BUCKETS, EMPTY, tmp_path / "one", Deadline(steps=2))
    two = transformer.train(_toy(seed=12), BUCKETS, EMPTY, tmp_path / "two", Deadline(steps=2))
    with pytest.raises(AssertionError):
        _same(one, two)


def test_the_flow_loss_falls_on_a_single_picture(tmp_path: Path) -> None:
    def loss(model: Flux) -> float:
        made = _toy(batch=64)
        batch = transformer.flow_batch(BUCKETS[0], made, EMPTY, 10_000)
        ids = transformer.image_ids(32, 32), transformer.text_ids(4)
        with torch.no_grad():
            return float(transformer.flow_loss(model, batch, *ids))

    fresh = Flux(TOY)
    transformer.initialise(fresh)
    seen: list[tuple[int, float]] = []
    transformer.train(
        _toy(average=0.9, rate=2e-2),
        BUCKETS[:1],
        EMPTY,
        tmp_path,
        Deadline(steps=150),
        report=lambda model, step: seen.append((step, loss(model))),
        report_minutes=60,
    )
    assert [step for step, _ in seen] == [150]
    # a zeroed last layer predicts nothing: the loss starts at the variance of noise and picture
    assert loss(fresh) > 1.5
    assert seen[0][1] < 0.5 * loss(fresh)


def test_the_schedule_of_times_leans_towards_noise_as_the_sampler_does() -> None:
    times = transformer.times(4000, 48, Shift(), torch.Generator().manual_seed(0))
    assert float(times.min()) > 0.0
    assert float(times.max()) < 1.0
    assert float(times.median()) == pytest.approx(1 / (1 + np.exp(-Shift().mu(48))), abs=0.02)


def test_captions_are_dropped_as_often_as_the_recipe_says() -> None:
    made = _toy(batch=4000, dropout=0.1)
    _, _, txt, vec, _ = transformer.flow_batch(BUCKETS[0], made, EMPTY, 0)
    dropped = (vec == 0).all(dim=1)
    assert torch.equal(dropped, (txt == 0).flatten(1).all(dim=1))
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.02)


def test_sampling_is_repeatable_and_guidance_matters() -> None:
    torch.manual_seed(0)
    model = Flux(TOY)
    states = (BUCKETS[0].txt, BUCKETS[0].vec)

    def drawn(guidance: float) -> torch.Tensor:
        return sampling.sample(
            model, states, EMPTY, width=48, height=32, shift=Shift(), steps=3, guidance=guidance, bf16=False
        )

    assert drawn(3.5).shape == (3, 16, 4, 6)
    assert torch.equal(drawn(3.5), drawn(3.5))
    assert not torch.equal(drawn(3.5), drawn(1.0))


# ---------------------------------------------------------------- autoencoder


SMALL = recipe.load("cpu").transformer.params
"""A transformer smaller than the one that is shipped: a checkpoint says its own shape."""
PLAIN = AutoencoderRecipe(params=IMPASTO_MINI.autoencoder, batch=2, crop=32, crop_share=1.0, bf16=False, mix=Mix())


@pytest.fixture(scope="module")
def transform(sprites: Sprites) -> pca.BlockPCA:
    return autoencoder.fit_encoder(PLAIN, sprites, count=60)


def test_the_written_encoder_computes_the_block_transform(sprites: Sprites, transform: pca.BlockPCA) -> None:
    model = Autoencoder(IMPASTO_MINI.autoencoder)
    pca.write(model.encoder, IMPASTO_MINI.autoencoder, transform)
    pixels = autoencoder.sample_pixels(sprites, Mix(), 4, seed=1)
    with torch.no_grad():
        mean, logvar = model.moments(pixels)
    expected = transform.encode(pixels)
    assert float((mean - expected).square().mean().sqrt()) < 2e-3 * float(expected.std())
    assert float(logvar.max()) <= -11.9


def test_the_block_transform_is_the_best_of_its_rank(sprites: Sprites, transform: pca.BlockPCA) -> None:
    pixels = autoencoder.sample_pixels(sprites, Mix(), 8, seed=2)
    kept = [
        autoencoder.decibels(part.decode(part.encode(pixels)), pixels)
        for part in (pca.fit(pixels, rank) for rank in (2, 8, 16))
    ]
    assert kept == sorted(kept)
    assert kept[-1] > kept[0] + 2
    assert torch.allclose(transform.basis @ transform.basis.T, torch.eye(16), atol=1e-4)
    variance = transform.encode(pixels).square().mean()
    assert 0.5 < float(variance) < 2.0


def test_a_too_narrow_encoder_is_refused(transform: pca.BlockPCA) -> None:
    narrow = replace(IMPASTO_MINI.autoencoder, ch=8, norm_groups=2)
    with pytest.raises(ValueError, match="too narrow"):
        pca.write(Autoencoder(narrow).encoder, narrow, transform)


def test_a_cut_and_resumed_decoder_run_equals_the_unbroken_one(
    tmp_path: Path, sprites: Sprites, transform: pca.BlockPCA
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        transform.save(tmp_path / name / "pca.safetensors")
    whole = autoencoder.train(PLAIN, sprites, tmp_path / "whole", Deadline(steps=4))
    autoencoder.train(PLAIN, sprites, tmp_path / "cut", Cut(steps=4, at=2))
    resumed = autoencoder.train(PLAIN, sprites, tmp_path / "cut", Deadline(steps=4))
    _same(whole, resumed)


def test_a_batch_can_be_cut_out_of_pictures_painted_before(
    tmp_path: Path, sprites: Sprites, transform: pca.BlockPCA
) -> None:
    made = replace(PLAIN, side=64, pool=6, batch=4)
    with dataset.Painters(sprites, 1) as painters:
        pool = [runs.painted(made, painters, *size) for size in made.sizes]
    assert [tuple(pictures.shape) for pictures in pool] == [(6, 3, 64, 64), (6, 3, 48, 64)]
    crops = autoencoder.pooled_batch(made, pool, 3, crops=True)
    assert crops.shape == (4, 3, 32, 32)
    assert torch.equal(crops, autoencoder.pooled_batch(made, pool, 3, crops=True))
    blocks = [pictures.unfold(2, 32, 8).unfold(3, 32, 8).permute(0, 2, 3, 1, 4, 5) for pictures in pool]
    windows = torch.cat([part.reshape(-1, 3, 32, 32) for part in blocks]) / 127.5 - 1
    assert all((windows == crop).flatten(1).all(1).any() for crop in crops)
    assert autoencoder.pooled_batch(made, pool, 3, crops=False).shape[0] == 1
    transform.save(tmp_path / "pca.safetensors")
    autoencoder.train(made, sprites, tmp_path, Deadline(steps=2), pool=pool)
    assert json.loads((tmp_path / "autoencoder.json").read_text())["steps"] == 2


def test_the_decoder_learns_to_draw_a_picture(tmp_path: Path, sprites: Sprites, transform: pca.BlockPCA) -> None:
    made = replace(PLAIN, rate=3e-3, average=0.8, batch=4)
    pixels = autoencoder.training_batch(made, sprites, 0, crops=True)
    latents = transform.encode(pixels)
    torch.manual_seed(0)
    decoder = Autoencoder(made.params).decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=2e-3)
    losses: list[float] = []
    for _ in range(25):
        loss = autoencoder.reconstruction_loss(decoder, latents, pixels, made.gradient_weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# ---------------------------------------------------------------- export, deadlines, recipes, command line


@pytest.fixture
def states(tmp_path: Path, transform: pca.BlockPCA) -> tuple[Path, Path]:
    torch.manual_seed(0)
    model = Autoencoder(IMPASTO_MINI.autoencoder)
    pca.write(model.encoder, IMPASTO_MINI.autoencoder, transform)
    paths = tmp_path / "autoencoder.pt", tmp_path / "transformer.pt"
    for path, module in zip(paths, (model, Flux(SMALL)), strict=True):
        optimise.save_state(path, module, torch.optim.SGD(module.parameters()), optimise.Average(module, 0.9), 3)
    return paths


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "impasto-mini"
    folder.mkdir()
    for name in ("text_encoder.safetensors", "text_places.safetensors", "tokenizer.json", "upscaler.safetensors"):
        shutil.copyfile(checkpoint.EMBEDDED / "impasto-mini" / name, folder / name)
    return folder


def _export(states: tuple[Path, Path], folder: Path, places: Path | None = None) -> None:
    export.export(
        autoencoder=states[0],
        transformer=states[1],
        places=places or folder / "text_places.safetensors",
        folder=folder,
        version="7",
        autoencoder_params=IMPASTO_MINI.autoencoder,
        transformer_params=SMALL,
        vocabulary={"things": {"cat": ["kitten"]}, "words": ["red"]},
    )


def test_an_exported_checkpoint_loads_strictly_and_keeps_the_weights(tmp_path: Path, states: tuple[Path, Path]) -> None:
    folder = _folder(tmp_path)
    _export(states, folder)
    assert checks.verify(folder).startswith("impasto-mini 7: 6 files")
    loaded = weights.load_transformer(checkpoint.locate(folder), weights.CPU).state_dict()
    for key, tensor in export.averaged(states[1]).items():
        assert torch.equal(loaded[key], tensor.to(torch.bfloat16).float()), key
    decoder = weights.load_autoencoder(checkpoint.locate(folder), weights.CPU)
    assert decoder.state_dict().keys() == export.averaged(states[0]).keys()
    known = checkpoint.locate(folder).vocabulary
    assert known is not None
    assert known.read("a red kitten, a samurai") == Reading(("cat",), ("samurai",))


def test_a_part_that_was_not_trained_on_is_exported_as_it_was(tmp_path: Path, states: tuple[Path, Path]) -> None:
    folder = _folder(tmp_path)
    _export(states, folder)
    file = folder / "autoencoder.safetensors"
    before = file.read_bytes()
    _export((file, states[1]), folder)
    assert file.read_bytes() == before


def _distilled(folder: Path, base: dict[str, Tensor], work: Path) -> dict[str, Tensor]:
    """A run's folder whose transformer has an embedder and, in one layer, a change; returns its tensors."""
    torch.manual_seed(3)
    model = Flux(replace(SMALL, guidance_embed=True))
    layer = model.single_blocks[0].linear1.weight  # pyright: ignore[reportUnknownMemberType]
    model.load_state_dict(base | {k: v for k, v in model.state_dict().items() if k.startswith("guidance_in")})
    layer.data += 0.1 * torch.randn(layer.shape)
    (work / "transformer").mkdir(parents=True)
    state = work / "transformer" / "transformer.pt"
    optimise.save_state(state, model, torch.optim.SGD(model.parameters()), optimise.Average(model, 0.9), 3)
    return model.state_dict()


@pytest.mark.parametrize("name", ["cpu-guided", "cpu-leaps"])
def test_a_distilled_transformer_is_exported_as_what_distilling_changed(
    tmp_path: Path, states: tuple[Path, Path], name: str
) -> None:
    folder, work = _folder(tmp_path), tmp_path / "work"
    _export(states, folder)
    base = weights.read(folder / "transformer.safetensors")
    wanted = _distilled(folder, base, work)
    out = tmp_path / "out" / "impasto-mini"
    out.parent.mkdir()
    shutil.copytree(folder, out)
    for part in ("transformer", "autoencoder"):
        (out / f"{part}.safetensors").unlink()
    runs.export_checkpoint(work, replace(recipe.load(name), start=str(folder)), "8", out)
    for part in ("transformer", "autoencoder"):
        assert (out / f"{part}.safetensors").read_bytes() == (folder / f"{part}.safetensors").read_bytes()
    found = checkpoint.locate(out)
    if name == "cpu-leaps":
        (found,) = checkpoint.siblings(found)
    assert found.spec.guidance == "distilled"
    assert checks.verify(out).startswith("impasto-mini 8: 7 files")
    assert found.path("distillation").stat().st_size < 0.1 * found.path("transformer").stat().st_size
    loaded = weights.load_transformer(found, weights.CPU).state_dict()
    assert loaded.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.allclose(loaded[key], tensor, atol=2e-2 if "linear1" in key else 2e-3), key


def test_a_distilled_transformer_can_be_exported_whole_and_says_its_sizes(
    tmp_path: Path, states: tuple[Path, Path]
) -> None:
    folder, work = _folder(tmp_path), tmp_path / "work"
    _export(states, folder)
    plain = folder / "transformer.safetensors"
    wanted, wide = _distilled(folder, weights.read(plain), work), plain.stat().st_size
    own = NativeSize(longest=64)
    made = replace(recipe.load("cpu-guided"), start=str(folder), whole=True, native_size=own)
    out = tmp_path / "out" / "impasto-mini"
    shutil.copytree(folder, out)
    runs.export_checkpoint(work, made, "8", out)
    found = checkpoint.locate(out)
    assert (found.spec.guidance, found.find("distillation")) == ("distilled", None)
    assert found.spec.native_size == own
    assert found.spec.transformer == replace(SMALL, guidance_embed=True)
    assert found.path("transformer").stat().st_size < 0.6 * wide
    loaded = weights.load_transformer(found, weights.CPU).state_dict()
    for key, tensor in wanted.items():
        step = tensor.abs().amax(-1, keepdim=True) / 127  # of eight bits; bf16 is finer
        assert ((loaded[key] - tensor).abs() <= 0.51 * step).all(), key
    changed = "single_blocks.0.linear1.weight"
    few = {**loaded, changed: loaded[changed] + 0.05}
    model = Flux(replace(SMALL, guidance_embed=True))
    model.load_state_dict(few)
    state = tmp_path / "few" / "transformer" / "transformer.pt"
    optimise.save_state(state, model, torch.optim.SGD(model.parameters()), optimise.Average(model, 0.9), 3)
    behind = replace(recipe.load("cpu-leaps"), start=str(out), native_size=own)
    runs.export_checkpoint(tmp_path / "few", behind, "8", out)
    (sibling,) = checkpoint.siblings(checkpoint.locate(out))
    assert sibling.spec.native_size == own
    drawn = weights.load_transformer(sibling, weights.CPU).state_dict()
    assert torch.allclose(drawn[changed], few[changed], atol=1e-3)
    assert all(torch.equal(drawn[key], tensor) for key, tensor in loaded.items() if key != changed)


def test_another_transformer_takes_the_changes_of_the_one_before_away(
    tmp_path: Path, states: tuple[Path, Path]
) -> None:
    folder = _folder(tmp_path)
    _export(states, folder)
    _distilled(folder, weights.read(folder / "transformer.safetensors"), tmp_path / "work")
    for name in ("cpu-guided", "cpu-leaps"):
        runs.export_checkpoint(tmp_path / "work", replace(recipe.load(name), start=str(folder)), "8", folder)
    found = checkpoint.locate(folder)
    assert found.spec.guidance == "distilled"
    assert len(checkpoint.siblings(found)) == 1
    _export(states, folder)  # the same weights again
    assert checkpoint.locate(folder).spec.guidance == "distilled"
    torch.manual_seed(5)
    model = Flux(SMALL)
    optimise.save_state(states[1], model, torch.optim.SGD(model.parameters()), optimise.Average(model, 0.9), 3)
    _export(states, folder)
    found = checkpoint.locate(folder)
    assert found.spec.guidance == "cfg"
    assert checkpoint.siblings(found) == ()
    assert checks.verify(folder).startswith("impasto-mini 7: 6 files")


def test_few_steps_are_learned_from_the_distilled_model_and_everything_else_from_the_plain_one(
    tmp_path: Path, states: tuple[Path, Path]
) -> None:
    folder = _folder(tmp_path)
    _export(states, folder)
    plain = weights.read(folder / "transformer.safetensors")
    _distilled(folder, plain, tmp_path / "work")
    runs.export_checkpoint(tmp_path / "work", replace(recipe.load("cpu-guided"), start=str(folder)), "8", folder)

    def begin(name: str) -> Mapping[str, Tensor]:
        return runs.start_tensors(replace(recipe.load(name), start=str(folder))) or {}

    for name in ("cpu-pairs", "cpu-guided"):
        assert begin(name).keys() == plain.keys()
        assert all(torch.equal(begin(name)[key], tensor) for key, tensor in plain.items())
    changed = "single_blocks.0.linear1.weight"
    for name in ("cpu-leaps", "cpu-persons"):
        assert begin(name).keys() > plain.keys()
        assert not torch.equal(begin(name)[changed], plain[changed])


def test_what_few_steps_changed_is_carried_over_to_another_teacher(tmp_path: Path, states: tuple[Path, Path]) -> None:
    folder, changed = _folder(tmp_path), "single_blocks.0.linear1.weight"
    _export(states, folder)
    plain = weights.read(folder / "transformer.safetensors")
    _distilled(folder, plain, tmp_path / "few")
    runs.export_checkpoint(tmp_path / "few", replace(recipe.load("cpu-leaps"), start=str(folder)), "8", folder)
    made = replace(recipe.load("cpu-leaps"), start=str(folder), carry=str(folder))
    teacher = {key: torch.full_like(tensor.float(), 0.5) for key, tensor in plain.items()}
    begin = runs.carried(made, teacher) or {}
    (few,) = checkpoint.siblings(checkpoint.locate(folder))
    moved = weights.transformer_tensors(few)[changed].float() - plain[changed].float()
    assert float(moved.abs().max()) > 0.1
    assert torch.allclose(begin[changed], 0.5 + moved, atol=1e-5)
    assert all(torch.equal(begin[key], tensor) for key, tensor in teacher.items() if key != changed)
    assert runs.carried(replace(made, carry=None), teacher) is None
    with pytest.raises(ConfigError, match="carry = "):
        runs.carried(replace(made, transformer=recipe.load("cpu-persons").transformer), teacher)
    few.path("distillation").unlink()
    with pytest.raises(ConfigError, match="carry = "):
        runs.carried(made, teacher)


def test_what_reads_places_comes_from_the_run_that_taught_it(tmp_path: Path, states: tuple[Path, Path]) -> None:
    folder, own = _folder(tmp_path), tmp_path / "own.safetensors"
    shutil.copyfile(folder / "text_places.safetensors", own)
    (folder / "text_places.safetensors").write_bytes(b"of another run")
    _export(states, folder, places=own)
    assert (folder / "text_places.safetensors").read_bytes() == own.read_bytes()
    assert checks.verify(folder).startswith("impasto-mini 7: 6 files")


def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, states: tuple[Path, Path]
) -> None:
    folder = _folder(tmp_path)
    broken = torch.load(states[1], weights_only=True)
    del broken["average"]["txt_in.weight"]
    torch.save(broken, states[1])
    with pytest.raises(WeightsError, match=r"txt_in\.weight"):
        _export(states, folder)
    assert not (folder / "autoencoder.safetensors").exists()
    assert not (folder / "transformer.safetensors").exists()


def test_exporting_without_a_state_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Train first"):
        export.averaged(tmp_path / "nothing.pt")


def test_a_deadline_is_steps_minutes_or_a_time_of_day() -> None:
    assert clock.deadline(steps=10).progress(5) == 0.5
    assert clock.deadline(steps=10).over(10)
    half = Deadline(begins=100.0, ends=200.0, now=lambda: 150.0)
    assert half.progress(0) == 0.5
    assert not half.over(10**9)
    later = clock.deadline(until="00:00")
    assert later.ends is not None
    assert 0 < later.ends - later.begins <= 86_400


@pytest.mark.parametrize("bad", [{}, {"steps": 1, "minutes": 2.0}, {"until": "late"}])
def test_a_faulty_deadline_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        clock.deadline(**bad)  # type: ignore[arg-type]


def test_a_run_says_once_a_minute_how_it_goes_on() -> None:
    clocked = iter([0.0, 30.0, 61.0, 61.0, 100.0, 122.0, 122.0])
    due = clock.Every(1, now=lambda: next(clocked))
    assert [due(), due(), due(), due()] == [False, True, False, True]
    clocked = iter([0.0, 4.0, 14.0])
    pace = clock.Pace(now=lambda: next(clocked))
    for loss in (1.0, 3.0):
        pace.add(loss)
    assert pace.read() == (2.0, 0.5)
    pace.add(7.0)
    assert pace.read() == (7.0, 0.1)


def test_the_rate_warms_up_and_falls_to_zero_at_the_end() -> None:
    assert optimise.rate(1.0, 0, 0.0, decay_share=0.33) == pytest.approx(0.01)
    assert optimise.rate(1.0, 5000, 0.5, decay_share=0.33) == 1.0
    assert optimise.rate(1.0, 5000, 1.0, decay_share=0.33) == 0.0


SHIPPED = [path.stem for path in (Path(recipe.__file__).parent / "recipes").glob("*.toml")]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_recipes_load_and_their_shares_are_whole(name: str) -> None:
    loaded = recipe.load(name)
    assert sum(bucket.share for bucket in loaded.buckets) == pytest.approx(1.0)
    assert all(bucket.width % 16 == bucket.height % 16 == 0 for bucket in loaded.buckets)
    assert {style for style, _ in loaded.mix.styles} == {"3d", "flat", "cartoon"}


def test_the_gpu_recipe_is_the_embedded_model() -> None:
    loaded = recipe.load("gpu")
    assert loaded.transformer.params == IMPASTO_MINI.transformer
    assert loaded.autoencoder.params == IMPASTO_MINI.autoencoder
    assert loaded.native_size == IMPASTO_MINI.native_size
    longest = max(max(size.width, size.height) for size in loaded.buckets)
    assert longest == IMPASTO_MINI.native_size.limit


def test_an_unknown_field_of_a_recipe_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipe._shipped("cpu").replace("batch = 64", "batchsize = 64"))
    with pytest.raises(ConfigError, match="batchsize"):
        recipe.load(str(path))


def test_the_command_line_lists_its_steps_and_names_a_missing_one(tmp_path: Path) -> None:
    # click's runner closes stderr, and a handler that still held it would break the next test's log
    handlers = logging.getLogger().handlers[:]
    runner = CliRunner()
    listed = runner.invoke(command, ["default-model", "--help"]).output
    assert all(step in listed for step in ("data", "places", "autoencoder", "transformer", "sheet", "export"))
    arguments = ["default-model", "autoencoder", "--work", str(tmp_path), "--steps", "1"]
    result = runner.invoke(command, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "impasto train default-model data" in result.exception.message
    logging.getLogger().handlers[:] = handlers
