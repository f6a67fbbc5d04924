"""Weights on disk → modules.

What comes in: a model's name or folder. What goes out: modules with exactly the weights found there. Only safetensors
are read (a pickle can run code), in either dialect of keys (see `keys`). A module is built on the meta device, so it
takes no memory until its tensors arrive; loading is strict, and what does not fit is reported whole, not at the first
key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import keys
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.models import FLUX1_DEV, FLUX1_SCHNELL, MODELS, ModelSpec, Role
from impasto.flux.transformer import Flux
from impasto.flux.upscale import Upscaler
from impasto.flux.vocabulary import Vocabulary

M = TypeVar("M", bound=nn.Module)

EMBEDDED = Path(__file__).parent.parent / "weights"
"""Where the models that come with the package lie, a folder each."""

_DIFFUSERS_FOLDERS: Mapping[Role, tuple[str, ...]] = {"transformer": ("transformer",), "autoencoder": ("vae",)}

_LISTED = 8
"""Keys that a report names of each kind; the rest is counted."""


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a folder of shards with its `*.safetensors.index.json` or without. On
    the CPU.

    Raises WeightsError when the path is missing, is no safetensors file, or lacks a shard that its index names.
    """
    tensors: dict[str, Tensor] = {}
    for file in _files(path):
        try:
            with safe_open(file, framework="pt") as opened:
                tensors.update({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a complete safetensors file ({error}). Fetch it again.") from None
    return tensors


def read_config(path: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises WeightsError when it is missing or is not a JSON object."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}). A checkpoint folder needs it.") from None
    except ValueError as error:
        raise WeightsError(f"{path}: is not valid JSON ({error}).") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: must hold a JSON object.")
    return cast("dict[str, Any]", config)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and where its files lie. `sums`: SHA-256 of files, as its config.json states them; `vocabulary`: what a
    small model has learned to draw.
    """

    spec: ModelSpec
    folder: Path
    sums: Mapping[str, str]
    vocabulary: Vocabulary | None = None

    def path(self, role: Role) -> Path:
        """The file of that role, or its folder in diffusers' layout. Raises ModelUnavailable when there is neither."""
        names = [file.name for file in self.spec.files if file.role == role]
        for name in (*names, *_DIFFUSERS_FOLDERS.get(role, ())):
            if (self.folder / name).exists():
                return self.folder / name
        needed = ", ".join(file.name for file in self.spec.files)
        raise ModelUnavailable(f"{self.spec.name}: no {role} in {self.folder}. Needed there: {needed}.")

    def verify(self) -> int:
        """Compares every file with its sum; returns the bytes read. Raises WeightsError at the first that differs."""
        size = 0
        for file in self.spec.files:
            path = self.path(file.role)
            size += path.stat().st_size
            found, expected = sha256(path), self.sums.get(file.name)
            if expected is None:
                raise WeightsError(f"{path}: config.json states no sha256 for it.")
            if found != expected:
                raise WeightsError(f"{path}: SHA-256 is {found}, must be {expected}. Fetch it again.")
        return size


def locate(model: str | Path) -> Checkpoint:
    """Finds a model: by its name in the table, when it is embedded, or by the path of a checkpoint's folder.

    A folder tells what it is by the `name` in its config.json, by a file that only one model of the table has, or, in
    diffusers' layout, by its transformer's config. Raises ModelUnavailable that says what would help.
    """
    spec = MODELS.get(str(model))
    if spec is not None and not spec.embedded:
        files = ", ".join(file.name for file in spec.files)
        raise ModelUnavailable(f"{spec.name} does not come with impasto: name the folder that holds {files}.")
    folder = EMBEDDED / spec.name if spec is not None else Path(model)
    if not folder.is_dir():
        raise ModelUnavailable(f"{model}: neither a folder nor a model of the table ({', '.join(MODELS)}).")
    if (folder / "config.json").is_file():
        return _configured(folder)
    for candidate in MODELS.values():
        if not candidate.embedded and (folder / candidate.files[0].name).is_file():
            sums = {file.name: file.sha256 for file in candidate.files if file.sha256}
            return Checkpoint(candidate, folder, sums)
    if (folder / "transformer" / "config.json").is_file():
        return Checkpoint(_flux1_of(read_config(folder / "transformer" / "config.json")), folder, {})
    raise ModelUnavailable(f"{folder}: holds neither a config.json nor the files of a known model.")


def _flux1_of(config: Mapping[str, Any]) -> ModelSpec:
    """Which FLUX.1 a diffusers transformer is: [dev] embeds its guidance scale, [schnell] does not."""
    name = config.get("_class_name")
    if name != "FluxTransformer2DModel":
        raise ModelUnavailable(
            f"transformer/config.json: the class is {name}; FluxTransformer2DModel is what runs here."
        )
    return FLUX1_DEV if config.get("guidance_embeds") else FLUX1_SCHNELL


def _configured(folder: Path) -> Checkpoint:
    config = read_config(folder / "config.json")
    spec = MODELS.get(str(config.get("name")))
    if spec is None:
        raise ModelUnavailable(f"{folder / 'config.json'}: name must be one of {', '.join(MODELS)}.")
    try:
        measured = config["autoencoder"]
        autoencoder = replace(
            spec.autoencoder,
            scale_factor=float(measured["scale_factor"]),
            shift_factor=float(measured["shift_factor"]),
        )
        spec = replace(spec, version=str(config["version"]), autoencoder=autoencoder)
        sums = {str(name): str(value) for name, value in config["sha256"].items()}
        vocabulary = Vocabulary.of(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        needed = "version, autoencoder.scale_factor, autoencoder.shift_factor, sha256"
        raise WeightsError(f"{folder / 'config.json'}: needs {needed} ({error!r}).") from None
    return Checkpoint(spec, folder, sums, vocabulary)


def verify(model: str | Path) -> str:
    """One sentence for `impasto doctor`: which model, how many files, that their sums match. Raises WeightsError."""
    checkpoint = locate(model)
    size = checkpoint.verify()
    spec = checkpoint.spec
    return f"{spec.name} {spec.version}: {len(checkpoint.sums)} files, {size / 1e6:.0f} MB, checked by SHA-256"


def sha256(path: Path) -> str:
    """The file's SHA-256, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """Where weights go, and what they become on the way."""

    device: torch.device
    dtype: torch.dtype


CPU = Target(torch.device("cpu"), torch.float32)


def load_transformer(checkpoint: Checkpoint, target: Target) -> Flux:
    """The checkpoint's transformer, from either dialect of keys. Raises WeightsError."""
    path, params = checkpoint.path("transformer"), checkpoint.spec.transformer
    tensors = keys.from_diffusers(read(path), keys.transformer_rows(params))
    return build(lambda: Flux(params), tensors, name=str(path), target=target)


def load_autoencoder(checkpoint: Checkpoint, target: Target) -> Autoencoder:
    """The checkpoint's autoencoder, from either dialect of keys, channels_last. Raises WeightsError."""
    path, params = checkpoint.path("autoencoder"), checkpoint.spec.autoencoder
    tensors = keys.from_diffusers(read(path), keys.autoencoder_rows(params))
    return build(lambda: Autoencoder(params), tensors, name=str(path), target=target).channels_last()


def load_upscaler(checkpoint: Checkpoint, target: Target) -> Upscaler:
    """The upscaler that the checkpoint brings along. Raises WeightsError."""
    path = checkpoint.path("upscaler")
    built = build(Upscaler, read(path), name=str(path), target=target)
    return built.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - not in torch's stub


def build(module: Callable[[], M], tensors: Mapping[str, Tensor], *, name: str, target: Target = CPU) -> M:
    """The module that `module()` makes, filled with `tensors`, in evaluation mode, without gradients.

    `name` names the weights in errors. Raises WeightsError with a full report when a key is missing, unexpected or of
    another shape.
    """
    with torch.device("meta"):
        built = module()
    check(built, tensors, name=name)
    placed = {key: tensor.to(device=target.device, dtype=target.dtype, copy=True) for key, tensor in tensors.items()}
    built.load_state_dict(placed, strict=True, assign=True)
    return built.requires_grad_(False).eval()


def check(module: nn.Module, tensors: Mapping[str, Tensor], *, name: str) -> None:
    """Raises WeightsError unless `tensors` has exactly the keys and shapes of `module`."""
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    missing = [f"{key} {list(shape)}" for key, shape in wanted.items() if key not in found]
    unexpected = [f"{key} {list(shape)}" for key, shape in found.items() if key not in wanted]
    misshapen = [
        f"{key} is {list(found[key])}, must be {list(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    if missing or unexpected or misshapen:
        kinds = (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen))
        report = "".join(f"\n  {kind} ({len(keys)}): {_some(keys)}" for kind, keys in kinds if keys)
        raise WeightsError(f"{name}: {len(wanted)} tensors wanted, {len(found)} found.{report}")


def _some(keys: list[str]) -> str:
    listed = ", ".join(keys[:_LISTED])
    return listed if len(keys) <= _LISTED else f"{listed}, and {len(keys) - _LISTED} more"


def _files(path: Path) -> list[Path]:
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    if path.is_file():
        raise WeightsError(f"{path}: only .safetensors files are read; pickles (.pt, .bin, .ckpt) can run code.")
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file or folder.")
    for index in sorted(path.glob("*.safetensors.index.json")):
        shards = sorted(set(read_config(index).get("weight_map", {}).values()))
        lost = [shard for shard in shards if not (path / shard).is_file()]
        if lost:
            raise WeightsError(f"{path}: {index.name} names shards that are not there: {_some(lost)}.")
        return [path / shard for shard in shards]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{path}: holds no .safetensors file.")
    return files
