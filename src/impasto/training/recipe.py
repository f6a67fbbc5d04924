"""Recipes: everything that a training run depends on, in one TOML file."""

import tomllib
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from impasto.errors import ConfigError
from impasto.flux.models import IMPASTO_MINI, NativeSize
from impasto.training.autoencoder import AutoencoderRecipe
from impasto.training.compose import Mix
from impasto.training.dataset import BucketSize
from impasto.training.transformer import TransformerRecipe


@dataclass(frozen=True, slots=True)
class Recipe:
    """One run: the data's mix and sizes, and the recipes of the two loops. `start` names the embedded model, or the
    folder of a checkpoint, whose weights the run goes on from; None begins anew. `carry` names a checkpoint, too: what
    few steps changed there is added to what a run with `leaps` begins as. `whole`: a distilled transformer is exported
    itself, in 8 bits, not as its change from the start, which then is not shipped. `native_size`: the sizes at which
    the model draws; None: those of the table.
    """

    name: str
    sprite_side: int
    seed: int
    mix: Mix
    buckets: tuple[BucketSize, ...]
    autoencoder: AutoencoderRecipe
    transformer: TransformerRecipe
    start: str | None = None
    carry: str | None = None
    whole: bool = False
    native_size: NativeSize | None = None


def load(name: str) -> Recipe:
    """A recipe of the package (`cpu`, `gpu`) or a path to a TOML file; raises ConfigError that names the faulty
    field. `base` in a file names the recipe that it changes.
    """
    try:
        return parse(_tree(name))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"recipe {name}: {error}") from None
    except (TypeError, KeyError) as error:
        raise ConfigError(f"recipe {name}: unknown or missing field ({error})") from None


def _tree(name: str) -> dict[str, Any]:
    tree = tomllib.loads(Path(name).read_text("utf-8") if name.endswith(".toml") else _shipped(name))
    base = tree.pop("base", None)
    return tree if base is None else _merged(_tree(base), tree)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _shipped(name: str) -> str:
    return (resources.files("impasto.training") / "recipes" / f"{name}.toml").read_text("utf-8")


def parse(tree: dict[str, Any]) -> Recipe:
    """Build a recipe from a TOML tree; an unknown field is a TypeError, a missing one a KeyError."""
    transformer = dict(tree["transformer"])
    params = replace(IMPASTO_MINI.transformer, **transformer.pop("params", {}))
    guided = transformer.pop("guided", None)
    autoencoder = dict(tree["autoencoder"])
    shape = replace(IMPASTO_MINI.autoencoder, **autoencoder.pop("params", {}))
    return Recipe(
        name=tree["name"],
        sprite_side=tree["sprite_side"],
        seed=tree["seed"],
        mix=_mix(tree["mix"]),
        buckets=tuple(BucketSize(**bucket) for bucket in tree["buckets"]),
        autoencoder=AutoencoderRecipe(params=shape, mix=_mix(tree["autoencoder_mix"]), **autoencoder),
        transformer=TransformerRecipe(
            params=params,
            shift=IMPASTO_MINI.shift,
            seed=tree["seed"],
            guided=None if guided is None else (float(guided[0]), float(guided[1])),
            **transformer,
        ),
        start=tree.get("start"),
        carry=tree.get("carry"),
        whole=tree.get("whole", False),
        native_size=NativeSize(**tree["native_size"]) if "native_size" in tree else None,
    )


def _mix(tree: dict[str, Any]) -> Mix:
    fields = dict(tree)
    if "scale" in fields:
        low, high = fields["scale"]
        fields["scale"] = (float(low), float(high))
    if "styles" in fields:
        fields["styles"] = tuple((str(style), float(weight)) for style, weight in fields["styles"].items())
    return Mix(**fields)
