"""The caller's pictures of a job → what the model reads of them, or a 422 that says which model can.

In: `Job.images`, each with its role. Out: `Given`, the arguments of `flux.pipeline.Pipeline.denoise`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from impasto.engine.job import ImageInput, ImageRole, Job
from impasto.engine.pipeline import Pixels
from impasto.engine.senses import lack, senses_of
from impasto.errors import ModelError
from impasto.flux import canny
from impasto.flux.box import Box
from impasto.flux.images import fit, white

if TYPE_CHECKING:
    from torch import Tensor

    from impasto.flux import pipeline as flux
    from impasto.flux.conditioning import Context, Init, Reference, Seen

LATENT_STRENGTH = 0.2
LATENT_STRENGTH_WITH_WORDS = 0.5
"""Of the embedded model's image prompts where the wire has no field for it: the lowest at which every output resembles
its picture (`benchmarks/image_prompts.py --grid`).
"""


@dataclass(frozen=True, slots=True)
class Given:
    """What a job's pictures became."""

    init: Init | None = None
    reference: Reference | None = None
    beside: Tensor | None = None
    context: Context | None = None
    seen: tuple[Seen, ...] = ()


def read(job: Job, model: flux.Pipeline) -> Given:
    """Raises ModelError(feature_not_supported) for a picture that the model cannot use, or one it lacks."""
    _judge(job, model)
    return Given(
        init=_init(job, model),
        reference=_reference(job, model),
        beside=_beside(job, model),
        context=_context(job, model),
        seen=tuple(_seen(job, model)),
    )


def _judge(job: Job, model: flux.Pipeline) -> None:
    found = lack(senses_of(model.spec, redux=model.has_redux), [image.role for image in job.images])
    if found is None:
        return
    field = next((image.field for image in job.images if image.role == found.role), "prompt")
    raise _unsupported(field, found.reason, found.remedy)


def _unsupported(field: str, *sentences: str) -> ModelError:
    return ModelError.at(field, " ".join(sentences), "feature_not_supported")


def _init(job: Job, model: flux.Pipeline) -> Init | None:
    from impasto.flux.conditioning import Init

    size = {"height": job.height, "width": job.width}
    for image in _of(job, "init"):
        latents = model.encode_image(pixels(image), **size)
        masks = [model.encode_region(pixels(mask), **size) for mask in _of(job, "region")]
        assert image.strength is not None, "only an image prompt may leave it to the model"
        return Init(latents, image.strength, masks[0] if masks else None)
    return None


def _reference(job: Job, model: flux.Pipeline) -> Reference | None:
    """The embedded model's way of taking after a picture."""
    from impasto.flux.conditioning import Reference

    usual = LATENT_STRENGTH_WITH_WORDS if job.prompt else LATENT_STRENGTH
    for image, strength in _prompting(job, usual) if not model.has_redux else ():
        return Reference(model.encode_image(pixels(image), height=job.height, width=job.width), strength)
    return None


def _seen(job: Job, model: flux.Pipeline) -> Iterator[Seen]:
    """Redux: every picture's tokens, scaled by its strength (unasked: whole, as diffusers and ComfyUI have it); the
    words count once, however many pictures there are.
    """
    if not model.has_redux:
        return
    images = _prompting(job, 1.0)
    for image, strength in images:
        yield model.see(pixels(image), picture=strength, text=1 / len(images))


def _prompting(job: Job, usual: float) -> list[tuple[ImageInput, float]]:
    """The image prompts that have an effect, each with its strength: `usual` where none was asked."""
    images = [(image, usual if image.strength is None else image.strength) for image in _of(job, "prompt")]
    return [(image, strength) for image, strength in images if strength > 0]


def _beside(job: Job, model: flux.Pipeline) -> Tensor | None:
    size = {"height": job.height, "width": job.width}
    for image in _of(job, "fill"):
        (mask,) = _of(job, "mask")
        return model.encode_fill(pixels(image), pixels(mask), **size)
    for image in _of(job, "canny"):
        return model.encode_control(_edges(image, **size), **size)
    for image in _of(job, "depth"):
        return model.encode_control(_depth(image), **size)
    return None


def _context(job: Job, model: flux.Pipeline) -> Context | None:
    images = [pixels(image) for image in _of(job, "context")]
    return model.encode_context(images, height=job.height, width=job.width) if images else None


def _edges(image: ImageInput, *, height: int, width: int) -> Pixels:
    """A map that is given, as it is; else the edges of the picture at the size in which it is drawn, as BFL finds them:
    edges that are found first and resized afterwards are grey and blurred, and the model knows black and white.
    """
    given = pixels(image)
    if canny.is_map(given):
        return given
    if not canny.available():
        raise _unsupported(
            image.field,
            "This server cannot find edges: OpenCV is not installed.",
            "On the server, in the folder of impasto's sources: `.venv/bin/pip install -e '.[control]' -c "
            "constraints/tested.txt`; or send a map of edges, white on black.",
        )
    return canny.edges(fit(given, native=(height, width), box=Box(0, 0, height, width)))


def _depth(image: ImageInput) -> Pixels:
    given = pixels(image)
    spread = given.max(axis=2).astype(int) - given.min(axis=2)
    if (spread > 24).mean() > 0.02:
        raise _unsupported(
            image.field,
            "The picture is in colour, and this server has no model that finds depth in a photograph "
            "(Depth Anything would be one).",
            "Send a depth map: grey, near is bright.",
        )
    return given


def pasted(job: Job, drawn: Pixels) -> Pixels:
    """With `paste_back`, the picture's own pixels where its mask is not white."""
    if not job.paste_back:
        return drawn
    height, width = drawn.shape[:2]
    whole = Box(0, 0, height, width)
    kept, mask = (fit(pixels(_of(job, role)[0]), native=(height, width), box=whole) for role in ("fill", "mask"))
    return np.where(white(mask)[..., None], drawn, kept)


def pixels(image: ImageInput) -> Pixels:
    """[H, W, 3]."""
    return np.array(Image.open(io.BytesIO(image.data)).convert("RGB"))


def blank(role: ImageRole) -> ImageInput:
    """A black picture, for the warm-up of a model that needs one."""
    file = io.BytesIO()
    Image.new("RGB", (512, 384)).save(file, "PNG")
    return ImageInput(data=file.getvalue(), width=512, height=384, role=role, strength=1.0)


def _of(job: Job, role: ImageRole) -> list[ImageInput]:
    return [image for image in job.images if image.role == role]
