"""`multipart/form-data` in: fields and files with every size bounded, parsed in a thread.

In: a request. Out: texts and bytes by name. The body is read with the limit of a JSON body; its parts are counted, so
that many small ones cost no more than one large one.
"""

import asyncio
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from impasto.api.bodies import MIB, read_body
from impasto.errors import BadRequest, UnsupportedMediaType

MAX_PARTS = 64
MAX_FIELD = 64 * 1024  # bytes of one that is no file; the longest prompt has 40 KB


@dataclass(slots=True)
class Form:
    """A name may come several times: the last text counts, all files are kept."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])


async def read_form(request: Request, *, limit_mb: int) -> Form:
    """Raises `UnsupportedMediaType` (415), `PayloadTooLarge` (413), `BadRequest` that says what is wrong."""
    kind, parameters = parse_options_header(request.headers.get("content-type"))
    boundary = parameters.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedMediaType("The body has to be multipart/form-data with a boundary.")
    body = await read_body(request, limit_mb=limit_mb, setting="server.max_body_mb")
    return await asyncio.to_thread(parse, body, boundary)


def parse(body: bytes, boundary: bytes) -> Form:
    """Raises `BadRequest`."""
    form, count, ended = Form(), 0, False

    def counted() -> None:
        nonlocal count
        count += 1
        if count > MAX_PARTS:
            raise BadRequest(f"A form has at most {MAX_PARTS} parts.")

    def on_field(part: Field) -> None:
        counted()
        value = part.value or b""
        name = (part.field_name or b"").decode("utf-8", "replace")
        if len(value) > MAX_FIELD:
            raise BadRequest(f"The form field {name[:80]!r} is longer than {MAX_FIELD} bytes.")
        try:
            form.texts[name] = value.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"The form field {name[:80]!r} is not UTF-8 text.") from None

    def on_file(part: File) -> None:
        counted()
        part.file_object.seek(0)
        name = (part.field_name or b"").decode("utf-8", "replace")
        form.files.setdefault(name, []).append(part.file_object.read())

    def on_end() -> None:
        nonlocal ended
        ended = True

    try:
        # in memory, where the body is already: no file is ever made of a part
        parser = FormParser(
            "multipart/form-data", on_field, on_file, on_end, boundary, config={"MAX_MEMORY_FILE_SIZE": 2048 * MIB}
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"The form is not understood: {str(error)[:200]}") from None
    if not ended:
        raise BadRequest("The form is incomplete: its closing boundary is missing.")
    return form
