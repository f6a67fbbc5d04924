"""The pictures that an input names: a URL, one of our own files or a data URI → `ImageInput`, checked, made plain.

In: what the endpoint says of its image field. Out: RGB, upright, at most 2 MP, as PNG. Everything that can be wrong
with a caller's picture ends here as fal's own 422 at its field. The header is read before the pixels, so that a small
file cannot unfold into a large picture; two are decoded at a time.
"""

import asyncio
import io
import math
import time
from urllib.parse import parse_qs, urlsplit

from impasto.endpoints.base import Wanted
from impasto.engine.job import ImageInput, Notice
from impasto.errors import ModelError
from impasto.files import links
from impasto.files.blobs import BlobStore
from impasto.files.fetch import FetchError, FetchPolicy, FetchTooLarge, fetch
from impasto.files.images import INLINE, parse_data_uri, sniff
from impasto.settings import Settings
from impasto.store.base import Store
from impasto.store.records import Decision

MIB = 1024 * 1024
MAX_PIXELS = 64_000_000  # of a caller's picture (reliability 6, row 2)
MIN_SIDE = 16  # pixels: one token
KEPT_PIXELS = 2 * 1024 * 1024  # larger ones are made smaller: no model reads more
LEASE_SHARE = 0.6  # of a lease that reading may take: nobody renews it before the runner has it
AT_A_TIME = 2  # 64 MP are 192 MB


class Inputs:
    """Reads the pictures of a server's requests. `secret` signed the links that callers may name; None: none counts."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        blobs: BlobStore,
        policy: FetchPolicy | None = None,
        secret: bytes | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._secret = secret
        self._policy = policy or FetchPolicy.of(settings)
        self._decoding = asyncio.Semaphore(AT_A_TIME)
        self._max_bytes = settings.fetch.max_mb * MIB

    async def read(self, wanted: Wanted, *, base_url: str, reader: str) -> tuple[ImageInput, tuple[Notice, ...]]:
        """`reader`: key id of the request. Raises `ModelError` (422) at the field: file_download_error, file_too_large,
        image_load_error, image_too_small, image_too_large.
        """
        data = await self._bytes(wanted, base_url, reader)
        if len(data) > self._max_bytes:
            raise self._too_large(wanted.field)
        async with self._decoding:
            return await asyncio.to_thread(plain, data, wanted)

    async def _bytes(self, wanted: Wanted, base_url: str, reader: str) -> bytes:
        if wanted.url[:5].lower() == "data:":
            try:
                return parse_data_uri(wanted.url)[0]
            except ValueError as error:
                raise ModelError.at(wanted.field, f"Could not read the image: {error}.", "image_load_error") from None
        token = self._own(wanted.url, base_url)
        if token is not None:
            self._check_reader(token, wanted, reader)
            return await asyncio.to_thread(self._read_blob, token)
        seconds = min(self._settings.fetch.seconds, LEASE_SHARE * self._settings.queue.lease_seconds)
        try:
            got = await fetch(wanted.url, policy=self._policy, max_bytes=self._max_bytes, seconds=seconds)
        except FetchTooLarge:
            raise self._too_large(wanted.field) from None
        except FetchError as error:
            raise ModelError.at(
                wanted.field, f"Could not download the image: {error.message}", "file_download_error"
            ) from None
        return got.data

    def _check_reader(self, token: str, wanted: Wanted, reader: str) -> None:
        """A request reads what its key may read: it must not be a way round an ACL."""
        file = self._store.file(token)
        decision = Decision.HIDE if file is None else file.decide(reader)
        if decision is Decision.ALLOW or (file is not None and self._is_linked(token, wanted.url)):
            return
        said = "may not be read with this key" if decision is Decision.FORBID else "is not there"
        raise ModelError.at(wanted.field, f"This file of the server {said}.", "file_download_error")

    def _is_linked(self, token: str, url: str) -> bool:
        texts = parse_qs(urlsplit(url).query).get(links.PARAMETER, [])
        secret = self._secret
        return secret is not None and any(links.opens(text, token, now=time.time(), secret=secret) for text in texts)

    def _own(self, url: str, base_url: str) -> str | None:
        """The token of a file of this very server, by whatever name the caller knows it: no network is needed."""
        path = "/files/"
        for base in (base_url, self._settings.server.public_url, "https://v3.fal.media", self._settings.local_url):
            if base and url.startswith(base.rstrip("/") + path):
                return urlsplit(url).path.partition(path)[2]
        return None

    def _read_blob(self, token: str) -> bytes:
        with self._blobs.open(token) as file:
            return file.read(self._max_bytes + 1)

    def _too_large(self, field: str) -> ModelError:
        message = f"The file is larger than {self._settings.fetch.max_mb} MiB (setting fetch.max_mb)."
        return ModelError.at(field, message, "file_too_large", max_size=self._max_bytes)


def plain(data: bytes, wanted: Wanted) -> tuple[ImageInput, tuple[Notice, ...]]:
    """Image bytes → PNG of an upright RGB picture. The first frame of several; what is transparent becomes white."""
    from PIL import Image, ImageOps

    field, media_type = wanted.field, sniff(data)
    if media_type not in INLINE:
        raise ModelError.at(
            field, "The file is not an image that can be read: send JPEG, PNG, WebP, GIF or AVIF.", "image_load_error"
        )
    try:
        with Image.open(io.BytesIO(data), formats=[media_type.partition("/")[2].upper()]) as image:
            _check_size(image.width, image.height, field)
            image.seek(0)
            picture = ImageOps.exif_transpose(image).convert("RGBA")
    except ModelError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        message = f"The image could not be read: it is damaged or incomplete ({type(error).__name__})."
        raise ModelError.at(field, message, "image_load_error") from None
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    notices: tuple[Notice, ...] = ()
    if picture.width * picture.height > KEPT_PIXELS:
        before = f"{picture.width}x{picture.height}"
        scale = math.sqrt(KEPT_PIXELS / (picture.width * picture.height))
        size = (max(round(picture.width * scale), MIN_SIDE), max(round(picture.height * scale), MIN_SIDE))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        message = f"The image of {before} pixels was made smaller, {size[0]}x{size[1]}, before it was used."
        notices = (Notice(code="image_downscaled", message=message, field=field),)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return (
        ImageInput(
            data=buffer.getvalue(),
            width=picture.width,
            height=picture.height,
            role=wanted.role,
            strength=wanted.strength,
            field=field,
        ),
        notices,
    )


def _check_size(width: int, height: int, field: str) -> None:
    if min(width, height) < MIN_SIDE:
        message = f"The image has {width}x{height} pixels; it needs at least {MIN_SIDE}x{MIN_SIDE}."
        raise ModelError.at(field, message, "image_too_small", min_height=MIN_SIDE, min_width=MIN_SIDE)
    if width * height > MAX_PIXELS:
        message = f"The image has {width}x{height} pixels; it may have {MAX_PIXELS} in all."
        raise ModelError.at(field, message, "image_too_large", max_resolution=MAX_PIXELS)
