"""`impasto models`: the table of models, what of it is on this machine, and the way from one to the other.

In: settings and a name. Out: sentences. Notes lie in the models folder (`flux.library`); weights come from the hub
through `huggingface_hub`, an optional package, which draws the progress bars and resumes what was cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from impasto import quiet
from impasto.endpoints.own import load_endpoints
from impasto.engine.senses import lack, senses_of
from impasto.errors import ConfigError, ModelUnavailable, WeightsError
from impasto.flux import library
from impasto.flux.models import ADD_ONS, MODELS, AddOn, ModelSpec
from impasto.settings import Settings

PARTS = ("text_encoder/*", "text_encoder_2/*", "ae.safetensors", "vae/config.json")
REDUX_PARTS = ("image_encoder/*",)
NEVER = ("*.bin", "*.pt", "*.ckpt", "*.msgpack", "*.onnx*")


def lines(settings: Settings) -> Iterator[str]:
    """The table, what is on this machine under other names, and the endpoints that the chosen model cannot serve."""
    kept = {item.name: item for item in library.kept(settings.models_folder)}
    for spec in (*MODELS.values(), *ADD_ONS.values()):
        if isinstance(spec, ModelSpec) and spec.embedded:
            where = "comes with impasto"
        elif spec.name in kept:
            where = str(kept[spec.name].path)
        else:
            where = f"impasto models pull {spec.name}"
        yield f"{spec.name:<20} {spec.memory / 2**30:>4.0f} GiB  {spec.licence:<36} {where}"
    for name, item in kept.items():
        if name not in MODELS and name not in ADD_ONS:
            yield f"{name:<20} {'':>8}  {item.model:<36} {item.path}"
    yield from _refused(settings, kept)


def _refused(settings: Settings, kept: Mapping[str, library.Kept]) -> Iterator[str]:
    """The endpoints that the model of `settings.model.name` cannot draw for, below the commands that change it.

    Yields nothing for the path of a checkpoint: what it holds is known once it was read.
    """
    name = settings.model.name
    spec = MODELS.get(kept[name].model if name in kept else name)
    if spec is None:
        return
    senses = replace(senses_of(spec, redux=any(each in kept for each in ADD_ONS)), model=name)
    found: dict[tuple[str, ...], list[str]] = {}
    for endpoint in load_endpoints(settings.server.endpoints).values():
        lacking = None if endpoint.pipeline is not None else lack(senses, endpoint.roles)
        if lacking is not None:
            found.setdefault(lacking.commands, []).append(endpoint.id)
    for commands, ids in found.items():
        yield ""
        yield f"{name} (setting model.name) cannot draw for these endpoints. To serve them: {' && '.join(commands)}"
        yield from (f"  {id_}" for id_ in ids)


def add(settings: Settings, path: Path, *, name: str | None = None, model: str | None = None, sums: bool = True) -> str:
    """Raises ModelUnavailable or WeightsError when the files are not a whole model; nothing is written then. `sums`:
    whether to read every byte for the checksums that `check` compares.
    """
    from impasto.flux.checkpoint import like, locate
    from impasto.flux.checks import dry_load
    from impasto.flux.stored import files_of

    path = Path(os.path.abspath(path))  # links stay: the hub's cache consists of them
    found = locate(path, models=settings.models_folder)
    if model is not None:
        if model not in MODELS or MODELS[model].embedded:
            raise ConfigError(f"--as {model}: not a model of `impasto models list`.")
        like(MODELS[model], found.spec)
    kind = model or found.spec.name
    name = name or kind
    if name in MODELS and MODELS[name].embedded:
        raise ConfigError(f"{name} comes with impasto. Choose another with --name.")
    before = next((each for each in library.kept(settings.models_folder) if each.name == name), None)
    if before is not None and before.path.resolve() != path.resolve():
        raise ConfigError(
            f"{name} is already the name of {before.path}. Choose another with --name, or forget that one first: "
            f"impasto models remove {name}."
        )
    parts = dry_load(found)
    item = library.Kept(name=name, model=kind, path=path)
    files = [file for part in parts for file in files_of(part.path)]
    library.keep(settings.models_folder, _summed(item, files if sums else ()))
    size = sum(part.size for part in parts) / 1e9
    return f"{name}: {kind}, {size:.1f} GB in {path}. Serve it with `impasto serve --model {name}`."


def pull(settings: Settings, name: str) -> str:
    """Raises ConfigError for a name that cannot be fetched, ModelUnavailable when the hub does not give it,
    WeightsError when it cannot be kept.
    """
    spec = _known(name)
    quiet.keep_caches_in(settings.speed_folder)
    hub = _hub()
    target = settings.models_folder / name
    patterns = [file.name for file in spec.files if file.role in {"transformer", "redux"}]
    patterns += REDUX_PARTS if isinstance(spec, AddOn) else () if _has_parts(settings, name) else PARTS
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{target}: cannot be made ({error.strerror}). Choose another folder with --data.") from None
    try:
        info = hub.HfApi().model_info(spec.source, files_metadata=True)
        revision = info.sha or "main"
        hub.snapshot_download(
            spec.source, revision=revision, local_dir=target, allow_patterns=patterns, ignore_patterns=list(NEVER)
        )
    except hub.errors.GatedRepoError:
        raise ModelUnavailable(_gated(spec)) from None
    except hub.errors.RepositoryNotFoundError:
        raise ModelUnavailable(f"{spec.source} is not on the hub, or not for you. {_gated(spec)}") from None
    except (OSError, *_faults(hub)) as error:
        raise ModelUnavailable(
            f"{spec.source} could not be fetched ({type(error).__name__}: {_first_line(error)}). "
            "Try again: what is there already is kept. Without a connection, copy the files and use "
            "`impasto models add PATH`."
        ) from None
    sums = {each.rfilename: each.lfs.sha256 for each in info.siblings or () if each.lfs is not None}
    sums = {file: value for file, value in sums.items() if (target / file).is_file()}
    item = library.Kept(name=name, model=name, path=target.resolve(), source=spec.source, revision=revision)
    item = _summed(item, sorted(target.rglob("*.safetensors")))
    damaged = next((file for file, value in sums.items() if item.sums.get(file, value) != value), None)
    if damaged is not None:
        raise WeightsError(f"{target / damaged}: is not what the hub has. Delete it and pull again.")
    library.keep(settings.models_folder, replace(item, sums=sums | dict(item.sums)))
    return f"{name}: in {target}, licence {spec.licence}. Check it with `impasto models check {name}`."


def check(settings: Settings, name: str, *, sums: bool = True) -> Iterator[str]:
    """What was found, part by part. Raises WeightsError at the first thing that is not right."""
    from impasto.flux.checkpoint import locate
    from impasto.flux.checks import dry_load
    from impasto.flux.shapes import cut_down

    if name in ADD_ONS:
        item = _kept(settings, name)
    else:
        checkpoint = locate(name, models=settings.models_folder)
        if checkpoint.spec.embedded:
            yield f"{name}: {checkpoint.verify() / 1e6:.0f} MB, checked by SHA-256"
            return
        for part in dry_load(checkpoint):
            yield f"{part.role:<14} {part.parameters / 1e6:>8.1f} M parameters, {part.size / 1e9:.2f} GB  {part.path}"
        if note := cut_down(checkpoint.spec.transformer):
            yield note
        item = library.find(settings.models_folder, name)
    if not sums:
        return
    if item is None or not item.sums:
        yield "no checksums are known for these files: `impasto models add` or `pull` them again to record some"
        return
    for file in item.sums:
        yield _compared(item, file)


def _compared(item: library.Kept, file: str) -> str:
    """One file against its recorded sum. Raises WeightsError that names the file and its first tensor that differs."""
    from impasto.flux.checkpoint import sha256
    from impasto.flux.stored import SUFFIXES
    from impasto.flux.sums import of

    path, expected = item.folder / file, item.sums[file]
    remedy = "Pull it again." if item.source else "Copy it here again; if it was changed on purpose, add it again."
    if not path.is_file():
        raise WeightsError(f"{path}: is missing. {remedy}")
    found = of(path) if path.suffix in SUFFIXES else None
    digest = sha256(path) if found is None else found.sha256
    if digest == expected:
        return f"{file}: SHA-256 matches"
    first = None if found is None else found.first_other(item.tensors.get(file, {}))
    place = "" if first is None else f" The first tensor that differs is {first}."
    raise WeightsError(f"{path}: SHA-256 is {digest}, must be {expected}.{place} {remedy}")


def _summed(item: library.Kept, files: Iterable[Path]) -> library.Kept:
    """The note with the sums of those `files` that lie below its folder; parts that another model has are its own."""
    from impasto.flux.sums import of

    below = {str(path.relative_to(item.folder)): of(path) for path in files if path.is_relative_to(item.folder)}
    return replace(
        item,
        sums={file: each.sha256 for file, each in below.items()},
        tensors={file: each.tensors for file, each in below.items()},
    )


def remove(settings: Settings, name: str) -> str:
    item = _kept(settings, name)
    deleted = library.forget(settings.models_folder, item)
    return f"{name}: deleted" if deleted else f"{name}: forgotten; its files stay in {item.path}"


def _known(name: str) -> ModelSpec | AddOn:
    spec = MODELS.get(name) or ADD_ONS.get(name)
    if spec is None:
        raise ConfigError(f"{name}: not in `impasto models list`. Weights that you have: `impasto models add PATH`.")
    if isinstance(spec, ModelSpec) and spec.embedded:
        raise ConfigError(f"{name} comes with impasto: there is nothing to fetch.")
    return spec


def _kept(settings: Settings, name: str) -> library.Kept:
    item = library.find(settings.models_folder, name)
    if item is None:
        raise ConfigError(f"{name}: not kept in {settings.models_folder}; `impasto models list` shows what is.")
    return item


def _hub() -> Any:
    try:
        import_module("huggingface_hub.errors")  # which the package loads by itself only once it was used
        return import_module("huggingface_hub")
    except ImportError:
        raise ConfigError(
            "fetching needs the package huggingface_hub. In the folder of impasto's sources: .venv/bin/pip install -e "
            "'.[hub]' -c constraints/tested.txt. Weights that you have already: `impasto models add PATH`."
        ) from None


def _faults(hub: Any) -> tuple[type[Exception], ...]:
    """What its calls raise besides OSError, as which an unreachable hub is told only before version 1."""
    names = ("HTTPError", "EntryNotFoundError", "XetDownloadError", "RevisionResolutionError")
    return tuple(getattr(hub.errors, name) for name in names if hasattr(hub.errors, name))


def _gated(spec: ModelSpec | AddOn) -> str:
    page = f"https://huggingface.co/{spec.source}"
    return (
        f"{spec.name} is given out under the {spec.licence}: read and accept it at {page} with your account, make a "
        "token with read access at https://huggingface.co/settings/tokens, and set HF_TOKEN to it."
    )


def _has_parts(settings: Settings, name: str) -> bool:
    """Whether another kept model has the text encoders and the autoencoder that all of them share."""
    folders = [item.folder for item in library.kept(settings.models_folder) if item.name != name]
    return any(all((folder / part).exists() for part in ("text_encoder", "text_encoder_2", "ae.safetensors"))
               for folder in folders)  # fmt: skip


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")[:300]
