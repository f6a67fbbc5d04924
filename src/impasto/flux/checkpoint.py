"""Where a model's files lie, and which model they are.

In: a name of the table, a name that `impasto models` keeps, a folder or a single file. Out: a `Checkpoint`: the spec,
with the shapes that the files themselves state, and the path of every part. Layouts that are understood: BFL's single
files, diffusers' folders, ComfyUI's single files for the encoders, and its all-in-one files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import library, shapes
from impasto.flux.models import (
    FLUX1_CANNY,
    FLUX1_DEPTH,
    FLUX1_REDUX,
    MODELS,
    SIBLINGS,
    ModelSpec,
    NativeSize,
    Role,
    distilled,
)
from impasto.flux.stored import SUFFIXES, Stored, open_stored, read_json, weight_files
from impasto.flux.vocabulary import Vocabulary

EMBEDDED = Path(__file__).parent.parent / "weights"
"""Where the models that come with the package lie, a folder each."""

PLACES: Mapping[Role, tuple[str, ...]] = {
    "transformer": ("transformer",),
    "autoencoder": ("ae.safetensors", "ae.sft", "vae"),
    "clip": ("text_encoder", "clip_l.safetensors", "clip_l.sft"),
    "t5": ("text_encoder_2", "t5xxl*.safetensors", "t5xxl*.sft"),
    "image_encoder": ("image_encoder", "sigclip_vision_patch14_384.safetensors"),
    "redux": ("flux1-redux-dev.safetensors", "image_embedder"),
}
"""Names under which parts are published, relative to the folder; patterns match in alphabetical order."""

PREFIXES: Mapping[Role, str] = {
    "transformer": "model.diffusion_model.",
    "autoencoder": "vae.",
    "clip": "text_encoders.clip_l.transformer.",
    "t5": "text_encoders.t5xxl.transformer.",
}
"""Where the parts lie inside an all-in-one file."""

_OWN: frozenset[Role] = frozenset({"transformer", "distillation", "upscaler"})
"""What no two models share."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model and where its files lie. `sums`: SHA-256 of files, as far as they are known; `file`: the transformer's
    file, when it was named; `elsewhere`: folders that are searched for parts which every FLUX.1 shares; `vocabulary`:
    what a small model has learned to draw.
    """

    spec: ModelSpec
    folder: Path
    sums: Mapping[str, str]
    file: Path | None = None
    elsewhere: tuple[Path, ...] = ()
    vocabulary: Vocabulary | None = None

    def path(self, role: Role) -> Path:
        """The file of that role, or its folder. Raises ModelUnavailable that says what is needed where."""
        found = self.find(role)
        if found is None:
            named = [file.name for file in self.spec.files if file.role == role]
            needed = " or ".join(dict.fromkeys((*named, *PLACES.get(role, ()))))
            raise ModelUnavailable(f"{self.spec.name}: no {role} in {self.folder}. Needed there: {needed}.")
        return found

    def find(self, role: Role) -> Path | None:
        """As `path`; None when there is none."""
        if role == "transformer" and self.file is not None:
            return self.file
        named = tuple(file.name for file in self.spec.files if file.role == role)
        for folder in (self.folder, *(() if role in _OWN else self.elsewhere)):
            for name in (*named, *PLACES.get(role, ())):
                for path in sorted(folder.glob(name)):
                    return path
            inside = folder is self.folder and role in PREFIXES
            if inside and self.file is not None and len(open_stored(self.file).below(PREFIXES[role])):
                return self.file
        return None

    def tensors(self, role: Role) -> Stored:
        """What is stored there, whatever the file around it. Raises ModelUnavailable or WeightsError."""
        return open_stored(self.path(role)).below(*[PREFIXES[role]] if role in PREFIXES else [], "")

    def verify(self, *roles: Role) -> int:
        """Compares every file, or those of `roles`, with its sum; returns the bytes read. Raises WeightsError at the
        first that differs.
        """
        size = 0
        for file in self.spec.files:
            absent = file.optional and file.name not in self.sums and self.find(file.role) is None
            if absent or (roles and file.role not in roles):
                continue
            path = self.path(file.role)
            size += path.stat().st_size
            found, expected = sha256(path), self.sums.get(file.name)
            if expected is None:
                raise WeightsError(f"{path}: config.json states no sha256 for it.")
            if found != expected:
                raise WeightsError(f"{path}: SHA-256 is {found}, must be {expected}. Fetch it again.")
        return size


def locate(model: str | Path, *, models: Path | None = None) -> Checkpoint:
    """Finds a model: by its name in the table, by a name kept in the folder `models`, or by the path of a checkpoint.

    A folder tells what it is by the `name` in its config.json, by a file that only one model of the table has, or, in
    diffusers' layout, by its configurations; a single file by its name and its shapes. Raises ModelUnavailable that
    says what would help.
    """
    spec = MODELS.get(str(model))
    if spec is not None and spec.embedded:
        return _configured(EMBEDDED / spec.name)
    if models is not None and (kept := library.find(models, str(model))) is not None:
        found = _at(kept.path)
        named = MODELS.get(kept.model)
        spec = found.spec if named is None else like(named, found.spec)
        found = replace(found, spec=spec, sums=dict(found.sums) | dict(kept.sums))
        return _searched(found, (item for item in library.kept(models) if item.name != kept.name))
    if spec is not None:
        files = ", ".join(file.name for file in spec.files)
        raise ModelUnavailable(
            f"{spec.name} is not here. Fetch it with `impasto models pull {spec.name}`, or name the folder that holds "
            f"{files}."
        )
    found = _at(Path(model))
    return found if models is None else _searched(found, library.kept(models))


def _searched(found: Checkpoint, others: Iterable[library.Kept]) -> Checkpoint:
    """With the folders of other models to search, after those that it knows of itself."""
    return replace(found, elsewhere=(*found.elsewhere, *(item.folder for item in others)))


def like(spec: ModelSpec, found: ModelSpec) -> ModelSpec:
    """`spec` with the shapes of `found`. Raises ModelUnavailable when the files cannot be that model."""
    ours, theirs = spec.transformer, found.transformer
    if (ours.in_channels, ours.guidance_embed) != (theirs.in_channels, theirs.guidance_embed):
        raise ModelUnavailable(
            f"{spec.name} has {ours.in_channels} channels in and guidance {'on' if ours.guidance_embed else 'off'}; "
            f"the files have {theirs.in_channels} and {'on' if theirs.guidance_embed else 'off'} ({found.name})."
        )
    return replace(spec, transformer=theirs, autoencoder=found.autoencoder)


def _at(path: Path) -> Checkpoint:
    if path.is_file():
        if path.suffix not in SUFFIXES:
            open_stored(path)  # says why not
        return _single(path)
    if not path.is_dir():
        raise ModelUnavailable(f"{path}: neither a file nor a folder nor a model of the table ({', '.join(MODELS)}).")
    if (path / "config.json").is_file():
        return _configured(path)
    for spec in MODELS.values():
        if not spec.embedded and (path / spec.files[0].name).is_file():
            return replace(_single(path / spec.files[0].name), file=None)
        if not spec.embedded and (old := path / spec.files[0].name.replace(*SUFFIXES)).is_file():
            return _single(old)
    if (path / "transformer" / "config.json").is_file():
        return _diffusers(path)
    singles = weight_files(path)
    found = [file for file in singles if shapes.is_transformer(open_stored(file).below(PREFIXES["transformer"], ""))]
    if len(found) == 1:
        return _single(found[0])
    if found:
        raise ModelUnavailable(f"{path}: holds several transformers; name one: {', '.join(f.name for f in found)}.")
    raise ModelUnavailable(f"{path}: holds neither a config.json nor the files of a known model.")


def _single(file: Path) -> Checkpoint:
    """A transformer in one file, the other parts beside it or inside it."""
    stored = open_stored(file).below(PREFIXES["transformer"], "")
    params = shapes.transformer(stored, name=str(file))
    by_name = next(
        (spec for spec in MODELS.values() if not spec.embedded and Path(spec.files[0].name).stem == file.stem), None
    )
    # Not resolved: every file of the hub's cache is a link to a place where nothing has its name.
    folder, linked = file.absolute().parent, file.resolve().parent
    hint = f"{_repository(folder)} {file.name}"
    spec = by_name or identify(params.in_channels, guidance_embed=params.guidance_embed, hint=hint)
    spec = replace(spec, transformer=params)
    sums = {part.name: part.sha256 for part in spec.files if part.sha256}
    # Who links a single file has the other parts beside the file itself.
    elsewhere = () if linked == folder.resolve() else (linked,)
    checkpoint = Checkpoint(spec, folder, sums, file=file, elsewhere=elsewhere)
    return replace(checkpoint, spec=_with_autoencoder(checkpoint))


def _diffusers(folder: Path) -> Checkpoint:
    config = read_json(folder / "transformer" / "config.json")
    name = config.get("_class_name")
    if name != "FluxTransformer2DModel":
        raise ModelUnavailable(
            f"transformer/config.json: the class is {name}; FluxTransformer2DModel is what runs here."
        )
    params = shapes.transformer_of_config(config, name=str(folder / "transformer" / "config.json"))
    index = folder / "model_index.json"
    pipeline = str(read_json(index).get("_class_name", "")) if index.is_file() else ""
    hint = f"{pipeline} {config.get('_name_or_path', '')} {_repository(folder.absolute())} {folder.resolve().name}"
    spec = identify(params.in_channels, guidance_embed=params.guidance_embed, hint=hint)
    checkpoint = Checkpoint(replace(spec, transformer=params), folder, {})
    return replace(checkpoint, spec=_with_autoencoder(checkpoint))


def _repository(folder: Path) -> str:
    """What the hub's cache calls the repository that a folder of it belongs to, whose own name is a hash; else ""."""
    return next((part for part in folder.parts if part.startswith("models--")), "")


def identify(in_channels: int, *, guidance_embed: bool, hint: str) -> ModelSpec:
    """Which FLUX.1 a transformer is. Channels tell Fill from Canny and Depth, a guidance embedder [dev] from [schnell];
    where the shapes are equal (Canny and Depth; [dev], Kontext and Krea), a word in `hint` decides.
    """
    hint = hint.lower()
    candidates = [
        spec
        for spec in MODELS.values()
        if not spec.embedded
        and (spec.transformer.in_channels, spec.transformer.guidance_embed) == (in_channels, guidance_embed)
    ]
    if not candidates:
        raise ModelUnavailable(
            f"A FLUX transformer with {in_channels} channels in{'' if guidance_embed else ' and no guidance'} is none "
            f"of {', '.join(MODELS)}."
        )
    for spec in candidates:
        if spec.name.split("-")[1] in hint and spec.name.count("-") > 1:
            return spec
    return FLUX1_DEPTH if FLUX1_CANNY in candidates else candidates[0]


def _with_autoencoder(checkpoint: Checkpoint) -> ModelSpec:
    """The spec with the autoencoder's own shape, where it is another than the published one."""
    path, spec = checkpoint.find("autoencoder"), checkpoint.spec
    if path is None:
        return spec
    if (path / "config.json").is_file():
        config = path / "config.json"
        return replace(spec, autoencoder=shapes.autoencoder_of_config(read_json(config), name=str(config)))
    return replace(spec, autoencoder=shapes.autoencoder(checkpoint.tensors("autoencoder"), spec.autoencoder))


def _configured(folder: Path) -> Checkpoint:
    """A model of this project: its config.json names it."""
    config = read_json(folder / "config.json")
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
        if "native_size" in config:
            spec = replace(spec, native_size=NativeSize(**config["native_size"]))
        sums = {str(name): str(value) for name, value in config["sha256"].items()}
        vocabulary = Vocabulary.of(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        needed = "version, autoencoder.scale_factor, autoencoder.shift_factor, sha256"
        raise WeightsError(f"{folder / 'config.json'}: needs {needed} ({error!r}).") from None
    found = Checkpoint(spec, folder, sums, vocabulary=vocabulary)
    if (whole := found.find("transformer")) is not None:
        # its own shape, whatever the table's is
        spec = replace(spec, transformer=shapes.transformer(open_stored(whole), name=str(whole)))
    guided = spec.transformer.guidance_embed or found.find("distillation") is not None
    return replace(found, spec=distilled(spec) if guided else spec)


def siblings(checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
    """Models that lie in its folder and share all but their distillation with it, as far as they are there."""
    whole = checkpoint.spec
    specs = (spec for spec in SIBLINGS.values() if spec.beside == whole.name)
    found = (
        replace(
            checkpoint,
            spec=replace(
                spec,
                version=whole.version,
                transformer=distilled(whole).transformer,
                autoencoder=whole.autoencoder,
                native_size=whole.native_size,
            ),
        )
        for spec in specs
    )
    return tuple(each for each in found if each.find("distillation") is not None)


def redux(checkpoint: Checkpoint) -> Checkpoint | None:
    """The checkpoint with Redux's files, beside the model or elsewhere; None when they are not all there."""
    found = replace(checkpoint, spec=replace(checkpoint.spec, files=(*checkpoint.spec.files, *FLUX1_REDUX.files)))
    return found if found.find("redux") is not None and found.find("image_encoder") is not None else None


def sha256(path: Path) -> str:
    """The file's SHA-256, in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
