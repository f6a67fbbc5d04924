"""The pictures that an input names: a URL, one of our own files or a data URI → `ImageInput`, checked, made plain.

In: what the endpoint says of its image field. Out: RGB, upright, at most 2 MP, as PNG; what is transparent is white, in
masks black. Everything that can be wrong with a caller's picture ends here as fal's own 422 at its field. Pictures are
decoded in processes of their own (`decoders`, `decoder`), which hold the limits.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from impasto.endpoints.base import Wanted
from impasto.engine.job import ImageInput, ImageRole, Notice
from impasto.errors import ModelError, NotFound
from impasto.files import links
from impasto.files.blobs import BlobStore
from impasto.files.fetch import FetchError, FetchPolicy, FetchTooLarge, fetch
from impasto.files.images import parse_data_uri
from impasto.files.names import Names
from impasto.files.urls import PATH, token_of
from impasto.fleet.decoders import BLACK, WHITE, Decoders, Undecodable
from impasto.settings import Settings, is_loopback
from impasto.store.base import Store
from impasto.store.records import Decision

MIB = 1024 * 1024
FAL_FILES = "https://v3.fal.media"  # where URLs of ours point, for clients that reach us as fal.ai
NUMBERS = frozenset({"mask", "region", "depth"})  # roles whose images hold numbers, not colours
MASKS: dict[ImageRole, ImageRole] = {"mask": "fill", "region": "init"}  # and whose they are


class Inputs:
    """Reads the pictures of a server's requests. `secret` signed the links that callers may name; None: none counts."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        secret: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._secret = secret
        self._policy = FetchPolicy.of(settings)
        self._names = Names()
        self._decoders = Decoders()
        self._max_bytes = settings.fetch.max_mb * MIB
        self._folder = settings.data  # on the disk of the data, as memory is what /tmp may be

    async def read(self, wanted: Wanted, *, base_url: str, reader: str) -> tuple[ImageInput, tuple[Notice, ...]]:
        """`reader`: key id of the request. Raises `ModelError` (422) at the field: file_download_error, file_too_large,
        image_load_error, image_too_small, image_too_large.
        """
        with contextlib.ExitStack() as stack:
            source = await self._source(wanted, base_url, reader, stack)
            try:
                # White strokes on a transparent canvas are a mask of these strokes, not of everything.
                ground = BLACK if wanted.role in MASKS else WHITE
                picture = await self._decoders.decode(
                    source, ground=ground, convert=wanted.role not in NUMBERS, who=reader
                )
            except Undecodable as error:
                raise ModelError.at(wanted.field, error.message, error.type, **error.ctx) from None
        image = ImageInput(
            data=picture.png,
            width=picture.width,
            height=picture.height,
            role=wanted.role,
            strength=wanted.strength,
            field=wanted.field,
            sent=picture.before,
        )
        before, now = (f"{width}x{height}" for width, height in (picture.before, (picture.width, picture.height)))
        if before == now:
            return image, ()
        message = f"The image of {before} pixels was made smaller, {now}, before it was used."
        return image, (Notice(code="image_downscaled", message=message, field=wanted.field.partition(".")[0]),)

    async def read_all(
        self, wanted: Sequence[Wanted], *, base_url: str, reader: str
    ) -> tuple[tuple[ImageInput, ...], tuple[Notice, ...]]:
        """Several at once, in their order; the first that is wrong is the one that is told. Raises as `read` does, and
        for a mask of another size than its picture.
        """
        reads = (self.read(each, base_url=base_url, reader=reader) for each in wanted)
        found = await asyncio.gather(*reads, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        read = [one for one in found if not isinstance(one, BaseException)]
        images = tuple(image for image, _ in read)
        agree(images)
        return images, tuple(notice for _, notices in read for notice in notices)

    async def close(self) -> None:
        """End the decoding processes; look-ups of names that still run are left to themselves."""
        self._names.close()
        await self._decoders.close()

    async def _source(
        self, wanted: Wanted, base_url: str, reader: str, stack: contextlib.ExitStack
    ) -> Callable[[], bytes]:
        """A function that loads the image file once it is this image's turn to be decoded; `stack` closes the file."""
        if wanted.url[:5].lower() == "data:":
            return lambda: self._checked(_data_of(wanted), wanted.field)
        token = self._own(wanted.url, base_url)
        if token is not None:
            self._check_reader(token, wanted.url, wanted.field, reader)
            return lambda: self._checked(self._read_blob(token, wanted.field), wanted.field)
        # Beyond a MiB on the disk, in a file without a name: slow URLs take little memory, a kill -9 leaves nothing.
        file = stack.enter_context(tempfile.SpooledTemporaryFile(MIB, dir=str(self._folder)))  # noqa: SIM115
        policy, seconds = replace(self._policy, resolve=self._names.of(reader)), self._settings.fetch.seconds
        try:
            await fetch(wanted.url, policy=policy, max_bytes=self._max_bytes, seconds=seconds, into=file.write)
        except FetchTooLarge:
            raise self._too_large(wanted.field) from None
        except FetchError as error:
            raise ModelError.at(
                wanted.field, f"Could not download the image: {error.message}", "file_download_error"
            ) from None

        def load() -> bytes:
            file.seek(0)
            return file.read()

        return load

    def own_file(self, url: str, base_url: str, *, field: str, reader: str) -> Path | None:
        """Where a file of this very server lies; None: the URL is somebody else's. Raises ModelError at `field`."""
        token = self._own(url, base_url)
        if token is None:
            return None
        self._check_reader(token, url, field, reader)
        return self._blobs.path(token)

    def _check_reader(self, token: str, url: str, field: str, reader: str) -> None:
        """A request reads what its key may read: it must not be a way round an ACL."""
        file = self._store.file(token)
        decision = Decision.HIDE if file is None else file.decide(reader)
        if decision is Decision.ALLOW or (file is not None and self._is_linked(token, url)):
            return
        said = "may not be read with this key" if decision is Decision.FORBID else "is not there"
        raise ModelError.at(field, f"This file of the server {said}.", "file_download_error")

    def _is_linked(self, token: str, url: str) -> bool:
        texts = parse_qs(urlsplit(url).query).get(links.PARAMETER, [])
        secret = self._secret
        return secret is not None and any(links.opens(text, token, now=time.time(), secret=secret) for text in texts)

    def _own(self, url: str, base_url: str) -> str | None:
        """The token of a file of this very server; None: the URL is to be fetched. No network is needed.

        A token that the store knows is ours under whatever host, port and prefix: it cannot be guessed, and the ACL
        is judged all the same. Below a base of our own an unknown token is a file that is gone.
        """
        token = token_of(url)
        if token is not None and self._store.file(token) is not None:
            return token
        home, _, rest = url.partition(PATH)
        name = rest.partition("?")[0].partition("#")[0]
        local = self._settings.local_url
        ours = (base.rstrip("/") for base in (base_url, self._settings.server.public_url, local) if base)
        if not name or home == FAL_FILES:  # callers who come from fal have images there, too
            return None
        return name if home in ours or _is_same_door(home, local) else None

    def _read_blob(self, token: str, field: str) -> bytes:
        try:
            with self._blobs.open(token) as file:
                return file.read(self._max_bytes + 1)
        except NotFound:  # deleted just now
            raise ModelError.at(field, "This file of the server is not there.", "file_download_error") from None

    def _checked(self, data: bytes, field: str) -> bytes:
        if len(data) > self._max_bytes:
            raise self._too_large(field)
        return data

    def _too_large(self, field: str) -> ModelError:
        message = f"The file is larger than {self._settings.fetch.max_mb} MiB (setting fetch.max_mb)."
        return ModelError.at(field, message, "file_too_large", max_size=self._max_bytes)


def _data_of(wanted: Wanted) -> bytes:
    try:
        return parse_data_uri(wanted.url)[0]
    except ValueError as error:
        raise ModelError.at(wanted.field, f"Could not read the image: {error}.", "image_load_error") from None


def _is_same_door(home: str, local: str) -> bool:
    """Whether both are one port of this machine, under any of its names (localhost, 127.0.0.1, [::1])."""
    try:
        one, other = urlsplit(home), urlsplit(local)
        return is_loopback(one.hostname or "") and (one.scheme, one.port) == (other.scheme, other.port)
    except ValueError:
        return False


def agree(images: Sequence[ImageInput]) -> None:
    """Raises ModelError (422) at a mask that has another size than the picture it belongs to."""
    sizes = {image.role: image.sent for image in images}
    for mask in images:
        of = sizes.get(MASKS[mask.role], mask.sent) if mask.role in MASKS else mask.sent
        if mask.sent != of:
            (width, height), (across, down) = mask.sent, of
            message = f"The mask has {width}x{height} pixels, its image {across}x{down}: they must be of the same size."
            raise ModelError.at(mask.field, message, "value_error")
