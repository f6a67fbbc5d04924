"""Pixels to bytes and back, data URIs, and what bytes are."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from impasto.files.images import INLINE, MAX_ESCAPES, data_uri, disposition, encode, parse_data_uri, sniff


@pytest.fixture
def pixels() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:80]
    return np.stack([x * 3, y * 5, (x + y) % 256], axis=-1).astype(np.uint8)


def decode(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_png_is_exact(pixels):
    data, media_type = encode(pixels, "png")
    assert media_type == sniff(data) == "image/png"
    image = decode(data)
    assert (image.mode, image.size) == ("RGB", (80, 48))
    assert np.array_equal(np.asarray(image), pixels)


def test_jpeg_is_near_and_keeps_full_colour_resolution(pixels):
    data, media_type = encode(pixels, "jpeg")
    assert media_type == sniff(data) == "image/jpeg"
    image = decode(data)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (80, 48))
    assert [component[1:3] for component in image.layer] == [(1, 1)] * 3, "4:4:4"
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 2
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255
    difference = np.abs(np.asarray(decode(encode(stripes, "jpeg")[0])).astype(int) - stripes)
    assert difference.mean() < 10, "one-pixel colour stripes survive; with 4:2:0 they are purple"


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_the_same_pixels_give_the_same_bytes_and_no_others_do(pixels, format):
    first = encode(pixels, format)
    assert encode(pixels.copy(), format) == first
    assert encode(np.ascontiguousarray(pixels[:, ::-1])[:, ::-1], format) == first, "a view is read as what it shows"
    assert encode(pixels[::-1], format) != first


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_the_bytes_tell_nothing_about_the_machine(pixels, format):
    image = decode(encode(pixels, format)[0])
    assert not image.getexif()
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((1, 8, 8, 3), np.uint8),
    ],
)
def test_other_shapes_and_types_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="an image is uint8"):
        encode(bad, "png")


def test_an_unknown_format_is_refused_by_name(pixels):
    with pytest.raises(ValueError, match="'gif' is not one of jpeg, png"):
        encode(pixels, "gif")


class TestDataUri:
    @pytest.mark.parametrize("data", [b"", b"\x00\xff" * 100, b"text"])
    def test_there_and_back(self, data):
        assert parse_data_uri(data_uri(data, "image/png")) == (data, "image/png")

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("data:image/PNG;base64,AAE=", (b"\x00\x01", "image/png")),
            ("DATA:image/png;charset=x;BASE64,AAE=", (b"\x00\x01", "image/png")),
            ("data:image/png;base64,AA\r\nE=\n", (b"\x00\x01", "image/png")),
            ("data:image/png;base64, A A%0AE =", (b"\x00\x01", "image/png")),
            ("data:image/png;base64,AAE%3D", (b"\x00\x01", "image/png")),
            ("data:,hello%20there", (b"hello there", "text/plain")),
            ("data:text/plain;charset=utf-8,a,b", (b"a,b", "text/plain")),
        ],
    )
    def test_the_forms_of_the_standard(self, text, wanted):
        assert parse_data_uri(text) == wanted

    @pytest.mark.parametrize("text", ["", "data:", "http://x/,", "image/png;base64,AAE=", "data:image/png;base64"])
    def test_what_is_none_is_refused_with_an_example(self, text):
        with pytest.raises(ValueError, match="must look like data:image/png;base64"):
            parse_data_uri(text)

    @pytest.mark.parametrize("body", ["A", "AAE", "AA E", "AA-_", "é"])
    def test_broken_base64_is_refused(self, body):
        with pytest.raises(ValueError, match="not valid base64"):
            parse_data_uri(f"data:image/png;base64,{body}")

    def test_too_many_escapes_are_refused_and_many_are_read(self):
        assert parse_data_uri("data:image/png," + "%00" * MAX_ESCAPES)[0] == bytes(MAX_ESCAPES)
        for form in ("data:image/png,", "data:image/png;base64,"):
            with pytest.raises(ValueError, match="percent escapes; send it as base64"):
                parse_data_uri(form + "%" * (MAX_ESCAPES + 1))


class TestSniff:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
    def test_real_images_of_every_inline_type_are_known(self, pixels, format):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        assert sniff(buffer.getvalue()) == f"image/{format.lower()}"
        assert disposition(sniff(buffer.getvalue())) == "inline"

    @pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "ICO"])
    def test_images_of_other_types_are_octets(self, pixels, format):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format)
        assert sniff(buffer.getvalue()) == "application/octet-stream"

    @pytest.mark.parametrize(
        "data",
        [
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            b"<html><script>alert(1)</script>",
            "gr\u00fc\u00df dich".encode(),
            ("a" * 1023 + "\u00fc").encode(),
        ],
    )
    def test_text_and_what_a_browser_would_run_is_an_attachment(self, data):
        assert sniff(data) == "text/plain"
        assert disposition(sniff(data)) == "attachment"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00",
            b"PK\x03\x04",
            b"RIFF\x00\x00\x00\x00WAVE",
            b"\x89PNG",
            b"GIF88\x00",
            b"\xff\xfe\x00a",
            b"a\xffb",
            b"%PDF\x01",
        ],
    )
    def test_anything_else_is_octets_and_an_attachment(self, data):
        assert sniff(data) == "application/octet-stream"
        assert disposition(sniff(data)) == "attachment"

    def test_a_html_page_behind_an_image_header_is_only_ever_an_image(self):
        assert sniff(b"GIF89a/*<html><script>alert(1)</script>") == "image/gif"
        assert {"text/html", "image/svg+xml", "application/xhtml+xml"}.isdisjoint(INLINE)


def test_the_room_loads_neither_torch_nor_numpy_nor_pillow():
    program = (
        "import sys, impasto.files.blobs, impasto.files.images, impasto.store.sqlite;"
        "print([name for name in ('torch', 'numpy', 'PIL', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
