"""Going on from weights that are there: the same function at the start, and guidance distilled into one pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.errors import ConfigError, WeightsError
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.latents import image_ids, text_ids
from impasto.flux.models import IMPASTO_MINI, Shift, TransformerParams
from impasto.flux.schedule import sigmas
from impasto.flux.transformer import Flux
from impasto.training import autoencoder, pca, transformer
from impasto.training.autoencoder import AutoencoderRecipe
from impasto.training.clock import Deadline
from impasto.training.compose import Mix
from impasto.training.dataset import Bucket, BucketSize
from impasto.training.distil import Teacher
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
GENERATOR = torch.Generator().manual_seed(3)
BUCKET = Bucket(
    size=BucketSize(32, 32, 6, 1.0),
    tokens=torch.randn(6, 4, 64, generator=GENERATOR).to(torch.bfloat16),
    caption=torch.arange(6) % 3,
    txt=torch.randn(3, 4, 12, generator=GENERATOR).to(torch.bfloat16),
    vec=torch.randn(3, 12, generator=GENERATOR).to(torch.bfloat16),
)
RECIPE = TransformerRecipe(params=TOY, shift=Shift(), batch=8, bf16=False, rate=2e-3)
IDS = image_ids(32, 32), text_ids(4)


def _random(params: TransformerParams = TOY) -> Flux:
    torch.manual_seed(1)
    return Flux(params)


@pytest.fixture
def start() -> dict[str, Tensor]:
    return _random().state_dict()


def _velocity(model: Flux, scale: float | None = None) -> Tensor:
    noisy, _, txt, vec, t = transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5)
    guidance = None if scale is None else torch.full((len(noisy),), scale)
    with torch.no_grad():
        return model(noisy, IDS[0], txt, IDS[1], t, vec, guidance)


@pytest.mark.parametrize("grown", [{}, {"depth_single_blocks": 3}, {"guidance_embed": True}])
def test_a_run_begins_as_the_model_that_it_starts_from_even_when_it_has_grown(
    start: dict[str, Tensor], grown: dict[str, object]
) -> None:
    model = Flux(replace(TOY, **grown))  # type: ignore[arg-type]
    transformer.initialise(model)
    transformer.warm(model, start)
    scale = 3.5 if grown.get("guidance_embed") else None
    assert torch.allclose(_velocity(model, scale), _velocity(_random()), atol=1e-5)


@pytest.mark.parametrize("other", [{"depth": 2}, {"depth_single_blocks": 0}])
def test_weights_that_do_not_fit_are_no_start(start: dict[str, Tensor], other: dict[str, int]) -> None:
    model = Flux(replace(TOY, **other))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="cannot start"):
        transformer.warm(model, start)


def test_a_student_learns_to_guide_itself_in_one_pass(start: dict[str, Tensor], tmp_path: Path) -> None:
    made = replace(
        RECIPE, params=replace(TOY, guidance_embed=True), guided=(1.0, 6.0), batch=32, average=0.9, rate=1e-2
    )
    teacher = Teacher.load(start, made.params, EMPTY, (1.0, 6.0), seed=1)

    def loss(model: Flux) -> float:
        batch = teacher.teach(transformer.flow_batch(BUCKET, made, EMPTY, 10_000), *IDS, step=10_000)
        with torch.no_grad():
            return float(transformer.flow_loss(model, batch, *IDS))

    fresh = Flux(made.params)
    transformer.initialise(fresh)
    transformer.warm(fresh, start)
    seen: list[tuple[float, bool]] = []

    def report(model: Flux, step: int) -> None:
        assert step == 120
        seen.append((loss(model), torch.equal(_velocity(model, 1.0), _velocity(model, 6.0))))

    transformer.train(
        made, [BUCKET], EMPTY, tmp_path / "run", Deadline(steps=120), report=report, report_minutes=60, start=start
    )
    ((learned, deaf),) = seen
    assert learned < 0.5 * loss(fresh)
    assert not deaf


def test_at_scale_one_the_teacher_says_what_the_prompt_alone_says(start: dict[str, Tensor]) -> None:
    teacher = Teacher.load(start, TOY, EMPTY, (1.0, 1.0), seed=1)
    _, guided, *_, scale = teacher.teach(transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5), *IDS, step=0)
    assert torch.equal(scale, torch.ones(8))
    assert torch.allclose(guided, _velocity(_random()), atol=1e-5)


def _guided() -> Flux:
    torch.manual_seed(2)
    return Flux(replace(TOY, guidance_embed=True))


def test_the_teacher_of_leaps_that_guides_itself_is_asked_once() -> None:
    own = _guided()
    teacher = Teacher.load(own.state_dict(), TOY, EMPTY, (4.0, 4.0), seed=1, leaps=4, shift=Shift())
    begin, guided, txt, vec, here, scale = teacher.teach(transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5), *IDS, step=0)
    assert torch.equal(scale, torch.full((8,), 4.0))
    with torch.no_grad():
        said = own(begin, IDS[0], txt, IDS[1], here, vec, scale)
    assert not torch.allclose(guided, said, atol=1e-5)
    assert float((guided - said).abs().max()) < 0.5 * float(said.abs().max()), "a leap begins in the same direction"


def test_a_distilled_teacher_of_scales_is_asked_twice_at_scale_one() -> None:
    own = _guided()
    teacher = Teacher.load(own.state_dict(), TOY, EMPTY, (4.0, 4.0), seed=1)
    noisy, guided, txt, vec, t, _ = teacher.teach(transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5), *IDS, step=0)
    with torch.no_grad():
        said, bare = (
            own(noisy, IDS[0], words, IDS[1], t, summary, torch.ones(8))
            for words, summary in ((txt, vec), (EMPTY[0].expand(8, 4, 12), EMPTY[1].expand(8, 12)))
        )
    assert torch.allclose(guided, bare + 4.0 * (said - bare), atol=1e-5)


def test_a_leap_ends_where_the_teacher_arrives_by_small_steps(start: dict[str, Tensor]) -> None:
    shift = Shift()
    teacher = Teacher.load(start, TOY, EMPTY, (2.0, 2.0), seed=1, leaps=4, shift=shift)
    noisy, velocity, txt, vec, t = transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5)
    begin, straight, *_, here, scale = teacher.teach((noisy, velocity, txt, vec, t), *IDS, step=0)
    grid = sigmas(4, 4, shift)
    model, clean = _random(), noisy - t[:, None, None] * velocity
    for row in range(len(noisy)):
        place = grid.index(pytest.approx(float(here[row]), abs=1e-6))
        sigma, end = grid[place], grid[place + 1]
        x = clean[row : row + 1] + sigma * velocity[row : row + 1]
        assert torch.allclose(begin[row : row + 1], x, atol=1e-5)
        for i in range(4):
            at = torch.tensor([sigma + (end - sigma) * i / 4])
            with torch.no_grad():
                said = model(x, IDS[0], txt[row : row + 1], IDS[1], at, vec[row : row + 1])
                bare = model(x, IDS[0], EMPTY[0].float(), IDS[1], at, EMPTY[1].float())
            x = x + (end - sigma) / 4 * (bare + 2.0 * (said - bare))
        leap = begin[row : row + 1] + (end - sigma) * straight[row : row + 1]
        assert torch.allclose(leap, x, atol=1e-4)
    assert torch.equal(scale, torch.full((8,), 2.0))
    assert len(set(here.tolist())) > 1


def _guided() -> Flux:
    torch.manual_seed(2)
    return Flux(replace(TOY, guidance_embed=True))


def test_a_distilled_model_learns_new_data_at_scale_one(tmp_path: Path) -> None:
    made = replace(RECIPE, params=replace(TOY, guidance_embed=True), batch=64, average=0.9, rate=1e-2)

    def loss(model: Flux) -> float:
        batch = transformer.flow_batch(BUCKET, made, EMPTY, 10_000)
        with torch.no_grad():
            return float(transformer.flow_loss(model, (*batch, torch.ones(made.batch)), *IDS))

    seen: list[float] = []
    start = _guided().state_dict()
    transformer.train(
        made,
        [BUCKET],
        EMPTY,
        tmp_path,
        Deadline(steps=150),
        report=lambda model, step: seen.append(loss(model)),
        report_minutes=60,
        start=start,
    )
    assert seen[0] < 0.8 * loss(_guided())


def test_workers_teach_the_same(start: dict[str, Tensor]) -> None:
    for leaps in (0, 4):
        batch = transformer.flow_batch(BUCKET, RECIPE, EMPTY, 5)
        one, two = (
            Teacher.load(start, TOY, EMPTY, (1.0, 6.0), seed=1, leaps=leaps, shift=Shift(), workers=workers)
            for workers in (1, 2)
        )
        for ours, theirs in zip(two.teach(batch, *IDS, step=3), one.teach(batch, *IDS, step=3), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_leaps_without_guidance_are_refused(start: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"transformer\.guided"):
        transformer.train(replace(RECIPE, leaps=4), [BUCKET], EMPTY, tmp_path, Deadline(steps=1), start=start)


def test_distilling_without_a_start_or_an_embedder_is_refused(start: dict[str, Tensor], tmp_path: Path) -> None:
    for made, begin in ((replace(RECIPE, guided=(1.0, 6.0)), start), (replace(RECIPE, guided=(1.0, 6.0)), None)):
        with pytest.raises(ConfigError, match="guidance_embed"):
            transformer.train(made, [BUCKET], EMPTY, tmp_path, Deadline(steps=1), start=begin)


def test_the_block_transform_is_read_back_from_the_encoder(sprites: Sprites, tmp_path: Path) -> None:
    made = AutoencoderRecipe(params=IMPASTO_MINI.autoencoder, mix=Mix())
    fitted = autoencoder.fit_encoder(made, sprites, count=60)
    model = Autoencoder(made.params)
    pca.write(model.encoder, made.params, fitted)
    file = tmp_path / "autoencoder.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    found = autoencoder.block_transform(made, sprites, tmp_path / "run", file)
    pixels = autoencoder.sample_pixels(sprites, Mix(), 4, seed=1)
    expected = fitted.encode(pixels)
    assert float((found.encode(pixels) - expected).square().mean().sqrt()) < 5e-3 * float(expected.std())


def test_workers_share_a_batch_and_repeat_to_the_bit(tmp_path: Path) -> None:
    def run(name: str, workers: int) -> dict[str, Tensor]:
        made = replace(RECIPE, workers=workers)
        state = transformer.train(made, [BUCKET], EMPTY, tmp_path / name, Deadline(steps=4))
        return torch.load(state, weights_only=True)["model"]

    two, again, one = run("two", 2), run("again", 2), run("one", 1)
    for key, tensor in two.items():
        assert torch.equal(tensor, again[key]), key
        assert torch.allclose(tensor, one[key], atol=2e-3), key
    assert any(not torch.equal(tensor, one[key]) for key, tensor in two.items())
