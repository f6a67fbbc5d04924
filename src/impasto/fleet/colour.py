"""Colours as a browser shows them: an image with a colour profile becomes sRGB.

In: an image as decoded, and what its file says of its colours. Out: RGB in sRGB. A profile that is damaged, of another
kind of pixels, or sRGB itself changes nothing.
"""

import io
import struct
from collections.abc import Sequence

from PIL import Image, ImageCms

from impasto.fleet.containers import Colour

Matrix = tuple[tuple[float, float, float], ...]

_KINDS = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}  # colour space of a profile → Pillow's mode
_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # x, y of white, red, green, blue
_PRIMARIES = {  # ITU-T H.273
    1: _SRGB,
    9: (0.3127, 0.329, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
}
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_LIKE_SRGB = {1, 6, 13, 14, 15}  # transfer functions that browsers treat as, or nearly as, that of sRGB
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_COLUMNS = (b"rXYZ", b"gXYZ", b"bXYZ")  # tags of a profile
_D50 = (0.9642, 1.0, 0.8249)
_PROBE = bytes(level for red in (0, 90, 255) for green in (0, 90, 255) for blue in (0, 90, 255)
               for level in (red, green, blue))  # fmt: skip


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an RGB, L or CMYK image to RGB in sRGB. `profile`: ICC, of the image's colours; None: sRGB already."""
    plain = image.convert("RGB")
    if profile is None:
        return plain
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _KINDS[profile[16:20]]
        if mode != image.mode:
            if "CMYK" in (mode, image.mode) or mode == "L":
                return plain
            image = plain
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB" and _changes_nothing(transform):
            return plain
        return ImageCms.applyTransform(image, transform) or plain
    except (ImageCms.PyCMSError, KeyError, OSError, ValueError, TypeError):
        return plain


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether colours stay as they are but for rounding: an sRGB profile, of which there are many."""
    probe = Image.frombytes("RGB", (len(_PROBE) // 3, 1), _PROBE)
    after = ImageCms.applyTransform(probe, transform)
    return after is not None and all(abs(a - b) <= 2 for a, b in zip(_PROBE, after.tobytes(), strict=True))


def profile_of(colour: Colour) -> bytes | None:
    """A profile of what a file without one says, in the order of PNG: cICP, sRGB, gAMA and cHRM; None: sRGB."""
    if colour.cicp is not None:
        return profile_of_cicp(*colour.cicp)
    if colour.srgb or (colour.gamma is None and colour.primaries is None):
        return None
    gamma = None
    if colour.gamma is not None:
        if not 0.1 <= colour.gamma <= 5:
            return None
        gamma = None if abs(colour.gamma - 1 / 2.2) < 0.01 else 1 / colour.gamma
    primaries = colour.primaries or _SRGB
    if gamma is None and all(abs(a - b) < 0.002 for a, b in zip(primaries, _SRGB, strict=True)):
        return None
    return _matrix_profile(primaries, gamma)


def profile_of_cicp(primaries: int, transfer: int) -> bytes | None:
    """A profile of colours given by code points of ITU-T H.273; None: sRGB, or what is not converted (PQ, HLG)."""
    known = _PRIMARIES.get(primaries)
    if known is None or (transfer not in _LIKE_SRGB and transfer not in _GAMMAS):
        return None
    if known == _SRGB and transfer in _LIKE_SRGB:
        return None
    return _matrix_profile(known, _GAMMAS.get(transfer))


def _matrix_profile(primaries: Sequence[float], gamma: float | None) -> bytes | None:
    """An ICC profile of primaries and one gamma (None: the curve of sRGB); None: they make no colour space."""
    try:
        white, *colours = [_xyz(*primaries[at : at + 2]) for at in range(0, 8, 2)]
        scales = _times(_inverse(_transposed(colours)), white)
        adapt = _adaptation(white)
        columns = [
            _times(adapt, [scale * part for part in colour]) for scale, colour in zip(scales, colours, strict=True)
        ]
    except ZeroDivisionError:
        return None
    if not all(-1 < value < 3 for column in columns for value in column):
        return None
    curve = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045] if gamma is None else [gamma]
    shape = b"para" + bytes(4) + struct.pack(">HH", 0 if gamma is not None else 3, 0) + _fixed(curve)
    tags = [(kind, b"XYZ " + bytes(4) + _fixed(column)) for kind, column in zip(_COLUMNS, columns, strict=True)]
    tags += [(b"wtpt", b"XYZ " + bytes(4) + _fixed(_D50)), *((kind, shape) for kind in (b"rTRC", b"gTRC", b"bTRC"))]
    start = 128 + 4 + 12 * len(tags)
    table, bodies = b"", b""
    for kind, body in tags:
        table += kind + struct.pack(">II", start + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(bodies), bytes(4), 0x04200000, b"mntr", b"RGB ", b"XYZ ",
                       bytes(12), b"acsp")  # fmt: skip
    head += bytes(68 - len(head)) + _fixed(_D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + bodies


def _fixed(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(x: float, y: float) -> list[float]:
    return [x / y, 1.0, (1 - x - y) / y]


def _adaptation(white: Sequence[float]) -> Matrix:
    """From `white` to D50, Bradford's."""
    seen, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50)
    scaled = [[wanted[i] / seen[i] * value for value in row] for i, row in enumerate(_BRADFORD)]
    back = _inverse(_BRADFORD)
    columns = [_times(back, [scaled[row][column] for row in range(3)]) for column in range(3)]
    return _transposed(columns)


def _transposed(rows: Sequence[Sequence[float]]) -> Matrix:
    return tuple((rows[0][i], rows[1][i], rows[2][i]) for i in range(3))


def _times(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _inverse(m: Matrix) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = m
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return (
        ((e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det),
        ((f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det),
        ((d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det),
    )
