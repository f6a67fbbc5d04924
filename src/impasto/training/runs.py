"""The subcommands' work: one folder in, one folder out. Start reading the training here.

packages/ and sprites.npz (data) → autoencoder/ (block transform, decoder) → buckets/ (latents, text states) →
transformer/ (states, sheets) → a checkpoint folder. Every step finds what the step before left, and resumes its own.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from impasto.errors import ConfigError
from impasto.flux import weights
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import EMBEDDED, locate, siblings
from impasto.flux.models import IMPASTO_MINI, IMPASTO_MINI_SCHNELL, Role
from impasto.flux.precision import cores
from impasto.flux.text import PLACES_FILE, MiniLMTextEncoder
from impasto.flux.transformer import Flux
from impasto.training import autoencoder as autoencoder_loop
from impasto.training import captions, dataset, metrics, sampling, sources, sprites
from impasto.training import export as exporting
from impasto.training import places as places_loop
from impasto.training import transformer as transformer_loop
from impasto.training.clock import Deadline, deadline
from impasto.training.compose import known
from impasto.training.pca import BlockPCA
from impasto.training.recipe import Recipe, load

__all__ = [
    "deadline",
    "draw_sheet",
    "export_checkpoint",
    "load",
    "make_sprites",
    "train_autoencoder",
    "train_places",
    "train_transformer",
]

log = logging.getLogger(__name__)

PROMPTS: tuple[str, ...] = (
    "a red apple",
    "a yellow star on a blue background",
    "a rocket in space",
    "a cat",
    "a blue car on a white background",
    "a smiling face",
    "a slice of pizza",
    "a panda on a pink background",
    "a penguin in the snow",
    "a robot on a teal background",
    "a fox on a green background",
    "a flat icon of a guitar on an orange background",
    "a cartoon owl",
    "an elephant on a yellow background",
    "a purple t-shirt",
    "a pink teapot on a navy background",
    "a castle at sunset",
    "a bicycle",
    "a unicorn on a meadow",
    "an octopus on a light blue background",
    "a cat to the left of a dog",
    "a tree to the right of a house on a light blue background",
    "a star above a heart on a black background",
    "a penguin below a balloon",
    "a blue fish and a red apple on a yellow background",
    "a frog between a pig and a lion",
    "two apples on a green background",
    "three yellow stars on a navy background",
    "four hearts",
    "two owls on a pink background",
    "a woman with red hair",
    "an old man with dark skin on a teal background",
    "an astronaut in space",
    "a baby on a pink background",
    "two purple butterflies on a white background",
    "an astronaut riding a horse",
)
"""The sheet's prompts. The last is out of the model's reach, and stays on the sheet to show how it fails."""


def make_sprites(work: Path, recipe: Recipe) -> None:
    """Fetch every package of the table and render all sprites into `sprites.npz`."""
    for source in sources.SOURCES:
        folder = sources.fetch(source, work / "packages")
        log.info("%s %s (%s): %s", source.package, source.version, source.licence, folder)
    rendered = sprites.render(work / "packages", side=recipe.sprite_side)
    rendered.save(work / "sprites.npz")
    log.info("%d sprites", len(rendered))


def _sprites(work: Path) -> sprites.Sprites:
    path = work / "sprites.npz"
    if not path.is_file():
        raise ConfigError(f"{path} is missing: run `impasto train default-model data` first")
    return sprites.Sprites.load(path)


def _text(work: Path, device: str = "cpu") -> MiniLMTextEncoder:
    return MiniLMTextEncoder.load(EMBEDDED / "impasto-mini", device=device, places=_places(work))


def _places(work: Path) -> Path:
    """What was trained in the folder, or what is shipped."""
    own = work / PLACES_FILE
    return own if own.is_file() else EMBEDDED / "impasto-mini" / PLACES_FILE


def train_places(work: Path, recipe: Recipe, *, steps: int) -> float:
    """Train `text_places.safetensors`; returns the share of words whose place is read right in held-out captions."""
    work.mkdir(parents=True, exist_ok=True)
    return places_loop.train(recipe.mix, _text(work), work / PLACES_FILE, steps=steps)


def train_autoencoder(work: Path, recipe: Recipe, device: str, end: Deadline) -> None:
    """Fit the block transform and train the decoder in `autoencoder/`."""
    table = _sprites(work)
    _transform(work, recipe, table)
    sizes = recipe.autoencoder.sizes if recipe.autoencoder.pool else ()
    with dataset.Painters(table, cores()) as painters:
        pool = [painted(recipe.autoencoder, painters, *size).to(device) for size in sizes]
    autoencoder_loop.train(
        recipe.autoencoder,
        table,
        work / "autoencoder",
        end,
        device=device,
        start=_start(recipe, "autoencoder"),
        pool=pool,
    )


def painted(recipe: autoencoder_loop.AutoencoderRecipe, painters: dataset.Painters, width: int, height: int) -> Tensor:
    """The pictures of a size for the recipe's pool, [N, 3, H, W] uint8."""
    composer = dataset.Composer(dataset.BucketSize(width, height, recipe.pool, 1.0), recipe.mix, recipe.seed)
    pictures = [part for part, _ in painters.chunks(composer.chunk, recipe.pool)]
    return torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2)


def train_transformer(work: Path, recipe: Recipe, device: str, end: Deadline, *, report_minutes: float) -> None:
    """Build what is missing of `buckets/`, then train in `transformer/`, with a sheet and scores now and then."""
    table = _sprites(work)
    text = _text(work, device)
    with dataset.Painters(table, cores()) as painters:
        buckets = [_bucket(work, recipe, size, painters, text) for size in recipe.buckets]
    empty = dataset.encode_texts([""], text)
    judge = Judge(work, recipe, table, text, empty)
    start = start_tensors(recipe)
    transformer_loop.train(
        recipe.transformer,
        buckets,
        empty,
        work / "transformer",
        end,
        report=judge.report if report_minutes > 0 else None,
        report_minutes=report_minutes,
        device=device,
        start=start,
        student=carried(recipe, start),
    )


def _start(recipe: Recipe, part: Role) -> Path | None:
    """The file that a part's training begins from."""
    return None if recipe.start is None else locate(recipe.start).path(part)


def start_tensors(recipe: Recipe) -> Mapping[str, Tensor] | None:
    """What the transformer's training begins from: the weights as they were before distilling; for fewer steps, or if
    the recipe says so, as the start draws with them.
    """
    if recipe.start is None:
        return None
    checkpoint, run = locate(recipe.start), recipe.transformer
    distilled = run.leaps or run.from_distilled
    return weights.transformer_tensors(checkpoint) if distilled else checkpoint.tensors("transformer")


def carried(recipe: Recipe, start: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
    """What a student begins as in its teacher's place: the teacher `start`, moved by what few steps changed in the
    checkpoint that the recipe carries them over from (task arithmetic, Ilharco et al. 2023). None without such a one.
    """
    if recipe.carry is None:
        return None
    checkpoint = locate(recipe.carry)
    few = siblings(checkpoint)
    if start is None or not recipe.transformer.leaps or not few:
        raise ConfigError(f"carry = {recipe.carry!r} needs transformer.leaps, `start`, and a model for few steps there")
    ours, theirs = (weights.transformer_tensors(each) for each in (few[0], checkpoint))
    return {key: tensor.float() + (ours[key].float() - theirs[key].float()) for key, tensor in start.items()}


def _transform(work: Path, recipe: Recipe, table: sprites.Sprites) -> BlockPCA:
    return autoencoder_loop.block_transform(
        recipe.autoencoder, table, work / "autoencoder", _start(recipe, "autoencoder")
    )


def _bucket(
    work: Path, recipe: Recipe, size: dataset.BucketSize, painters: dataset.Painters, text: MiniLMTextEncoder
) -> dataset.Bucket:
    path = work / "buckets" / f"{size.name}.safetensors"
    if not path.is_file():
        params = recipe.autoencoder.params
        encoded = dataset.Encoded(
            dataset.Composer(size, recipe.mix, recipe.seed),
            _transform(work, recipe, painters.sprites),
            params.scale_factor,
            params.shift_factor,
        )
        dataset.build(encoded, painters, text).save(path)
    return dataset.Bucket.load(path, size)


class Judge:
    """Draws the fixed prompts and scores the concepts, with a model in training."""

    def __init__(
        self,
        work: Path,
        recipe: Recipe,
        table: sprites.Sprites,
        text: MiniLMTextEncoder,
        empty: tuple[Tensor, Tensor],
    ) -> None:
        self.work, self.recipe, self.table, self.text, self.empty = work, recipe, table, text, empty
        first = max(recipe.buckets, key=lambda bucket: bucket.share)
        self.width, self.height = first.width, first.height

    def draw(self, model: Flux, prompts: Sequence[str]) -> list[sprites.Pixels]:
        """One picture a prompt, decoded by the trained decoder where there is one, by the linear one otherwise."""
        latents = sampling.sample(
            model,
            dataset.encode_texts(list(prompts), self.text),
            self.empty,
            width=self.width,
            height=self.height,
            shift=self.recipe.transformer.shift,
            bf16=self.recipe.transformer.bf16,
        )
        state, start = self.work / "autoencoder" / "autoencoder.pt", _start(self.recipe, "autoencoder")
        if state.is_file():
            autoencoder = Autoencoder(self.recipe.autoencoder.params)
            autoencoder.load_state_dict(exporting.averaged(state))
        elif start is not None:
            autoencoder = autoencoder_loop.started(self.recipe.autoencoder, start)
        else:
            return sampling.to_pixels(_transform(self.work, self.recipe, self.table).decode(latents))
        with torch.no_grad():
            return sampling.to_pixels(autoencoder.decode(latents))

    def score(self, model: Flux) -> metrics.Scores:
        """The share of concepts and backgrounds drawn as asked, one prompt a concept."""
        concepts = known(self.recipe.mix)
        asked = metrics.judged_prompts(concepts=concepts)
        return metrics.accuracy(self.draw(model, [one.prompt for one in asked]), asked, self.table, concepts)

    def report(self, model: Flux, step: int) -> None:
        """A sheet on disk and the scores in the log."""
        page = sampling.sheet(self.draw(model, PROMPTS), PROMPTS)
        page.save(self.work / "transformer" / f"sheet_{step:06d}.png")
        log.info("step %d: %s", step, self.score(model))


def draw_sheet(work: Path, recipe: Recipe, prompts: Sequence[str], out: Path) -> Iterator[str]:
    """Draw prompts (or the fixed list) with the averaged weights into one picture; yields the lines of a report."""
    text = _text(work)
    judge = Judge(work, recipe, _sprites(work), text, dataset.encode_texts([""], text))
    model = Flux(recipe.transformer.params)
    model.load_state_dict(exporting.averaged(work / "transformer" / "transformer.pt"))
    chosen = tuple(prompts) or PROMPTS
    sampling.sheet(judge.draw(model, chosen), chosen).save(out)
    yield f"wrote {out}"
    if not prompts:
        yield str(judge.score(model))


def export_checkpoint(work: Path, recipe: Recipe, version: str, folder: Path) -> None:
    """Write the averaged weights of both states into a checkpoint folder; of a distilled transformer, what distilling
    changed. What the run did not train is that of its start.
    """
    trained, start = work / "autoencoder" / "autoencoder.pt", _start(recipe, "autoencoder")
    distilling = recipe.transformer.params.guidance_embed and not recipe.whole
    role: Role = "distillation" if distilling else "transformer"
    exporting.export(
        autoencoder=trained if start is None or trained.is_file() else start,
        transformer=work / "transformer" / "transformer.pt",
        base=_start(recipe, "transformer") if distilling else None,
        places=_places(work),
        folder=folder,
        version=version,
        autoencoder_params=recipe.autoencoder.params,
        transformer_params=recipe.transformer.params,
        name=(IMPASTO_MINI_SCHNELL if recipe.transformer.leaps else IMPASTO_MINI).file(role),
        narrow=recipe.whole,
        native_size=recipe.native_size,
        vocabulary=captions.vocabulary(recipe.mix),
    )
