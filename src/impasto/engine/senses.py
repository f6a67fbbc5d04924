"""Which of the caller's images a loaded model can use, and what the operator does about one that it cannot.

The runner refuses a job with these sentences (`engine.pictures`), and the gateway says the same before anybody uploads
an image (`GET /v1/models`). No torch and no numpy here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from impasto.engine.job import ImageRole
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEPTH,
    FLUX1_DEV,
    FLUX1_FILL,
    FLUX1_KONTEXT,
    FLUX1_REDUX,
    ModelSpec,
    Sight,
)

NEEDS: dict[Sight, tuple[ImageRole, ...]] = {
    "none": (),
    "reference": (),
    "mask": ("fill", "mask"),
    "canny": ("canny",),
    "depth": ("depth",),
}
"""Images without which a model cannot draw."""

_PLAIN: tuple[ImageRole, ...] = ("init", "region")  # every model can start from an image
_TEACHER: dict[ImageRole, tuple[str, ModelSpec]] = {
    "fill": ("fill the masked part of a picture", FLUX1_FILL),
    "mask": ("fill the masked part of a picture", FLUX1_FILL),
    "canny": ("draw along edges", FLUX1_CANNY),
    "depth": ("draw after a depth map", FLUX1_DEPTH),
    "context": ("change a picture as the prompt says", FLUX1_KONTEXT),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """What one loaded model can do with images. `model`: its name, for the sentences."""

    model: str
    able: tuple[ImageRole, ...]
    needs: tuple[ImageRole, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a loaded model cannot draw for an endpoint. `commands`: what the operator runs to mend it, in order."""

    role: ImageRole | None  # the image that the model cannot use; None: it needs one that the endpoint has not
    reason: str
    remedy: str
    commands: tuple[str, ...]


def everything(model: str) -> Senses:
    """The senses of a pipeline that takes every image and needs none, such as the test pictures."""
    return Senses(model=model, able=get_args(ImageRole))


def senses_of(spec: ModelSpec, *, redux: bool) -> Senses:
    """The senses of a model; `redux`: whether FLUX.1 Redux is loaded with it."""
    sight: tuple[ImageRole, ...] = ("context",) if spec.sight == "reference" else NEEDS[spec.sight]
    prompted: tuple[ImageRole, ...] = ("prompt",) if spec.image_prompts or redux else ()
    return Senses(model=spec.name, able=(*_PLAIN, *prompted, *sight), needs=NEEDS[spec.sight])


def lack(senses: Senses, roles: Collection[ImageRole]) -> Lack | None:
    """What keeps a model from drawing with images of these `roles`; None: nothing does."""
    missing: ImageRole | None = next((role for role in roles if role not in senses.able), None)
    if missing == "prompt":
        pull = f"impasto models pull {FLUX1_REDUX.name}"
        return Lack(
            role=missing,
            reason=f"{senses.model} cannot take after a picture: that needs the image encoder of FLUX.1-Redux-dev.",
            remedy=f"On the server: `{pull}`, then a restart; or leave the image out.",
            commands=(pull, f"impasto serve --model {senses.model}"),
        )
    if missing is not None:
        deed, spec = _TEACHER[missing]
        commands = _commands(spec)
        return Lack(
            role=missing,
            reason=f"{senses.model} cannot {deed}: that needs {spec.source.rpartition('/')[2]}.",
            remedy=f"On the server: {', then '.join(f'`{command}`' for command in commands)}.",
            commands=commands,
        )
    needed: ImageRole | None = next((role for role in senses.needs if role not in roles), None)
    if needed is None:
        return None
    return Lack(
        role=None,
        reason=f"The model that is loaded, {senses.model}, can only {_TEACHER[needed][0]}; this endpoint gives it "
        "none.",
        remedy="Ask the endpoint that belongs to it, or have another model served.",
        commands=_commands(FLUX1_DEV),
    )


def _commands(spec: ModelSpec) -> tuple[str, ...]:
    return f"impasto models pull {spec.name}", f"impasto serve --model {spec.name}"
