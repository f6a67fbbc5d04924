"""Training of the transformer: rectified flow on cached latents.

What comes in: buckets and a recipe. What goes out: a checkpoint that a later call resumes, with the moving average
that is shipped. Every random number is a function of the recipe's seed and the step, so a resumed run is the unbroken
run.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from impasto.errors import ConfigError, WeightsError
from impasto.flux.latents import image_ids, text_ids
from impasto.flux.models import Shift, TransformerParams
from impasto.flux.transformer import Flux
from impasto.training.clock import Deadline, Every, Pace
from impasto.training.dataset import Bucket
from impasto.training.distil import Teacher
from impasto.training.optimise import Average, load_state, make_optimiser, rate, save_state
from impasto.training.replicas import Replicas

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransformerRecipe:
    """What one run of the transformer's training needs to know.

    `guided`: distil guidance of scales in this range into one pass, from the weights that the run starts from (see
    `distil`); the captions are then never dropped. `leaps`: distil a schedule of that many steps, too.
    `from_distilled`: begin where distilling left the start (as with `leaps`), not before it; without `guided` the model
    then learns the data at scale 1, where it is what an undistilled one is. `workers`: threads that share a batch (see
    `replicas`). `lean`: how much further than the sampler's schedule the times of training lie towards noise, where it
    is decided what stands where.
    """

    params: TransformerParams
    shift: Shift | None
    batch: int = 64
    optimiser: Literal["adamw", "muon"] = "muon"
    rate: float = 1e-3
    decay_share: float = 0.33
    dropout: float = 0.1
    average: float = 0.999
    seed: int = 11
    bf16: bool = True
    compile: bool = False
    guided: tuple[float, float] | None = None
    leaps: int = 0
    from_distilled: bool = False
    workers: int = 1
    lean: float = 0.0


def times(count: int, tokens: int, shift: Shift | None, generator: torch.Generator, *, lean: float = 0.0) -> Tensor:
    """Logit-normal times in 0..1, [count], leaned towards noise as the sampler's schedule is (Esser et al. 2024), and
    by `lean` more.
    """
    mu = lean + (0.0 if shift is None else shift.mu(tokens))
    return torch.sigmoid(torch.randn(count, generator=generator, device=generator.device) + mu)


def flow_batch(
    bucket: Bucket, recipe: TransformerRecipe, empty: tuple[Tensor, Tensor], step: int
) -> tuple[Tensor, ...]:
    """The batch of a step: (noisy tokens, target velocity, txt, vec, times), where the bucket lies. `empty` is the
    states of the empty prompt.
    """
    device = bucket.tokens.device
    generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + step)
    rows = torch.randint(len(bucket.tokens), (recipe.batch,), generator=generator, device=device)
    clean = bucket.tokens[rows].float()
    t = times(recipe.batch, clean.shape[1], recipe.shift, generator, lean=recipe.lean)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    captions = bucket.caption[rows]
    txt, vec = bucket.txt[captions], bucket.vec[captions]
    dropout = recipe.dropout if recipe.guided is None else 0.0
    dropped = torch.rand(recipe.batch, generator=generator, device=device) < dropout
    txt = torch.where(dropped[:, None, None], empty[0], txt)
    vec = torch.where(dropped[:, None], empty[1], vec)
    noisy = torch.lerp(clean, noise, t[:, None, None])
    return noisy, noise - clean, txt, vec, t


def flow_loss(model: Flux, batch: tuple[Tensor, ...], img_ids: Tensor, txt_ids: Tensor) -> Tensor:
    """Mean squared error of the velocity. The batch is that of `flow_batch`; a sixth tensor is the scale [B] for a
    model that embeds its guidance.
    """
    noisy, velocity, txt, vec, t, *scale = batch
    return (model(noisy, img_ids, txt, txt_ids, t, vec, *scale).float() - velocity).square().mean()


def loss_of(
    precision: Callable[[], AbstractContextManager[Any]],
    img_ids: Tensor,
    txt_ids: Tensor,
    model: Flux,
    batch: tuple[Tensor, ...],
) -> Tensor:
    """`flow_loss` at the run's precision, which every thread has to enter for itself."""
    with precision():
        return flow_loss(model, batch, img_ids, txt_ids)


@torch.no_grad()
def initialise(model: Flux) -> None:
    """Start every block as the identity: gates and the last layer at zero, linears at Xavier's scale (Peebles and Xie
    2023).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
                nn.init.zeros_(module.bias)
    for embedder in (model.time_in, model.vector_in):
        nn.init.normal_(embedder.in_layer.weight, std=0.02)
        nn.init.normal_(embedder.out_layer.weight, std=0.02)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and (name.endswith(("mod.lin", "modulation.lin", "adaLN_modulation.1"))):
            nn.init.zeros_(module.weight)
    nn.init.zeros_(model.final_layer.linear.weight)


@torch.no_grad()
def warm(model: Flux, tensors: Mapping[str, Tensor]) -> None:
    """Start an initialised model from a smaller one's weights: the tensors are taken over, and what they lack stays as
    `initialise` left it, which is without effect. So a model with more single blocks, or with a guidance embedder,
    begins as the same function. Raises WeightsError when a tensor has no place.
    """
    if model.guidance_in is not None and "guidance_in.out_layer.weight" not in tensors:
        model.guidance_in.out_layer.weight.zero_()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if unexpected or not all(key.startswith(_GROWN) for key in missing):
        raise WeightsError(f"cannot start from these weights: no place for {unexpected[:4]}, nothing for {missing[:4]}")


def _teacher(
    recipe: TransformerRecipe,
    empty: tuple[Tensor, Tensor],
    start: Mapping[str, Tensor] | None,
    precision: Callable[[], AbstractContextManager[Any]],
    device: str,
) -> Teacher | None:
    if recipe.guided is None:
        if recipe.leaps:
            raise ConfigError("a recipe with transformer.leaps needs transformer.guided = [low, high], too")
        return None
    if start is None or not recipe.params.guidance_embed:
        raise ConfigError("a recipe with transformer.guided needs `start` and transformer.params.guidance_embed = true")
    return Teacher.load(
        start,
        recipe.params,
        empty,
        recipe.guided,
        seed=recipe.seed,
        leaps=recipe.leaps,
        shift=recipe.shift,
        workers=recipe.workers,
        precision=precision,
        device=device,
    )


_GROWN = ("single_blocks.", "guidance_in.")
"""What a model may have more of than the one that it starts from."""


def _begun(recipe: TransformerRecipe, start: Mapping[str, Tensor] | None) -> Flux:
    torch.manual_seed(recipe.seed)
    model = Flux(recipe.params)
    initialise(model)
    if start is not None:
        warm(model, start)
    return model


def choose_bucket(buckets: Sequence[Bucket], seed: int, step: int) -> Bucket:
    """The bucket of a step, by the shares."""
    generator = torch.Generator().manual_seed(seed * 7_919 + step)
    shares = torch.tensor([bucket.size.share for bucket in buckets])
    return buckets[int(torch.multinomial(shares, 1, generator=generator))]


def train(
    recipe: TransformerRecipe,
    buckets: Sequence[Bucket],
    empty: tuple[Tensor, Tensor],
    folder: Path,
    deadline: Deadline,
    *,
    report: Callable[[Flux, int], None] | None = None,
    report_minutes: float = 8.0,
    device: str = "cpu",
    start: Mapping[str, Tensor] | None = None,
    student: Mapping[str, Tensor] | None = None,
) -> Path:
    """Train until the deadline, resuming from `folder` when it holds a state, beginning at the weights `start` when
    there are some, or at those of `student`, whose teacher is `start` then; returns the state's path.

    `report` is called with the averaged model and the step every `report_minutes`, and at the end. Random numbers are
    the device's own, so a run repeats on the kind of device that it was made on.
    """
    buckets = [bucket.to(device) for bucket in buckets]
    empty = (empty[0].to(device), empty[1].to(device))
    model = _begun(recipe, start if student is None else student).to(device)
    precise = partial(torch.autocast, device.split(":")[0], torch.bfloat16, enabled=recipe.bf16)
    teacher = _teacher(recipe, empty, start, precise, device)
    average = Average(model, recipe.average)
    optimiser = make_optimiser(model, recipe.optimiser, recipe.rate, bf16=recipe.bf16, workers=recipe.workers)
    checkpoint = folder / "transformer.pt"
    step = load_state(checkpoint, model, optimiser, average)
    ids = {bucket.size.name: image_ids(bucket.size.height, bucket.size.width).to(device) for bucket in buckets}
    txt_ids = text_ids(buckets[0].txt.shape[1]).to(device)
    replicas = Replicas(model, recipe.workers)
    if recipe.compile:
        # one graph for each length, class of block and, of a teacher, way of running; beyond the limit it gives up
        torch._dynamo.config.recompile_limit = 64  # pyright: ignore[reportPrivateUsage] - later versions' compile takes it
        for module in (*replicas.modules, *(() if teacher is None else (teacher.model,))):
            for block in (*module.double_blocks, *module.single_blocks):
                block.compile(dynamic=False)
    pace, minute, reporting = Pace(), Every(1), Every(report_minutes)
    while not deadline.over(step):
        bucket = choose_bucket(buckets, recipe.seed, step)
        batch = flow_batch(bucket, recipe, empty, step)
        if teacher is not None:
            batch = teacher.teach(batch, ids[bucket.size.name], txt_ids, step)
        elif model.guidance_in is not None:
            batch = (*batch, torch.ones(recipe.batch, device=device))
        optimiser.set_rate(rate(1.0, step, deadline.progress(step), decay_share=recipe.decay_share))
        optimiser.zero_grad()
        pace.add(replicas.backward(partial(loss_of, precise, ids[bucket.size.name], txt_ids), batch))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        average.update(model, step)
        if minute():
            loss, speed = pace.read()
            seen, speed = step * recipe.batch, speed * recipe.batch
            log.info("transformer step %d samples %d loss %.4f %.1f samples/s", step, seen, loss, speed)
            save_state(checkpoint, model, optimiser, average, step)
        if report is not None and reporting():
            report(average.module, step)
    save_state(checkpoint, model, optimiser, average, step)
    if report is not None:
        report(average.module, step)
    return checkpoint
