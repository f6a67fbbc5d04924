"""What a file is, when it is not weights that are read here: its kind by name, and what to fetch instead.

Two questions: `of_bytes` judges a file that has no safetensors frame by its first bytes, `of_names` judges whole
safetensors files by the names and types of their tensors (weights packed in a way that is not read). Loading,
`impasto models check` and `add`, and LoRAs of requests all ask here. No torch: the server process asks, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from impasto.flux.pickles import PICKLES

HEAD = 512
"""Bytes of a file that tell its kind."""

_SAFETENSORS = "a .safetensors file (or .sft) with the same weights is needed"
_WIDE = "fetch the file in 16 bits (bf16, fp16) or in fp8 with one scale for each weight or row"
_PICKLE = f"a pickle can run code, so it is not read; {_SAFETENSORS}"
_LFS = "the weights are missing: run `git lfs pull` where it was cloned, or fetch the file itself"
_AGAIN = "fetch the file itself, from the link that downloads it"


@dataclass(frozen=True, slots=True)
class Kind:
    """`name` with its article; `remedy`: what to do. As text: both in one sentence without its full stop."""

    name: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}; {self.remedy}"


_HEADS: tuple[tuple[bytes, Kind], ...] = (
    (b"GGUF", Kind("a GGUF file", f"GGUF is not read: {_WIDE}")),
    (b"ggjt", Kind("a GGML file", f"GGML is not read: {_WIDE}")),
    (b"lmgg", Kind("a GGML file", f"GGML is not read: {_WIDE}")),
    (b"version https://git-lfs", Kind("a Git LFS pointer", _LFS)),
    (b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file (Keras)", _SAFETENSORS)),
    (b"\x93NUMPY", Kind("a NumPy array", _SAFETENSORS)),
    (b"\x1f\x8b", Kind("compressed with gzip", "unpack it first")),
    (b"\xfd7zXZ\x00", Kind("compressed with xz", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", Kind("compressed with zstd", "unpack it first")),
    (b"BZh", Kind("compressed with bzip2", "unpack it first")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "unpack it first")),
    (b"Rar!", Kind("a RAR archive", "unpack it first")),
    (b"PK\x05\x06", Kind("an empty zip archive", _AGAIN)),
    (b"\x89PNG", Kind("an image (PNG)", _SAFETENSORS)),
    (b"\xff\xd8\xff", Kind("an image (JPEG)", _SAFETENSORS)),
    (b"%PDF", Kind("a PDF document", _AGAIN)),
    (b"ftrt", Kind("an engine of TensorRT", _SAFETENSORS)),
)  # fmt: skip


def of_bytes(head: bytes, *, size: int, name: str = "") -> Kind | None:
    """Name the kind of a file of `size` bytes that has no safetensors frame and begins with `head` (`HEAD` bytes, or
    all of a shorter file); `name` decides where the bytes do not. None: nothing that is known.
    """
    if not size:
        return Kind("empty", "fetch it again")
    for start, kind in _HEADS:
        if head.startswith(start):
            return kind
    suffix = PurePosixPath(name).suffix.lower()
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if re.match(rb"<!doctype html|<html|<head|<body|<script|<!--", text):
        return Kind("a web page (HTML)", f"{_AGAIN}; some sites want an account or a token for it")
    if text.startswith(b"<"):
        return Kind("an XML document, perhaps a server's error", _AGAIN)
    if text[:1] in {b"{", b"["} and not head.startswith(b"\x80"):
        return Kind("a JSON document, perhaps a server's error or the index of a file's shards", _AGAIN)
    if head.startswith(b"PK\x03\x04"):
        if suffix == ".zip" or (b".safetensors" in head and b"data.pkl" not in head):
            return Kind("a zip archive", "unpack it first")
        return Kind("a pickle (as torch.save writes it)", _PICKLE)
    if head[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} or suffix in PICKLES:
        return Kind("a pickle", _PICKLE)
    if head[257:262] == b"ustar":
        return Kind("a tar archive", "unpack it first")
    if head[4:8] == b"TFL3" or suffix == ".tflite":
        return Kind("a model of TensorFlow Lite", _SAFETENSORS)
    if suffix == ".onnx" or re.match(rb"\x08[\x01-\x20][\x12\x1a\x3a]", head):
        return Kind("an ONNX model", _SAFETENSORS)
    if suffix == ".msgpack" or re.match(rb"[\x81-\x8f\xde\xdf].{0,4}?[\xa1-\xbf\xd9][\w./-]", head, re.DOTALL):
        return Kind("a checkpoint of Flax (msgpack)", _SAFETENSORS)
    return None


_PACKED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.quant_state\.bitsandbytes__nf4$"), "NF4 (bitsandbytes)"),
    (re.compile(r"\.quant_state\.bitsandbytes__fp4$"), "FP4 (bitsandbytes)"),
    (re.compile(r"\.(absmax|nested_absmax|quant_map|nested_quant_map)$"), "4 bits of bitsandbytes (NF4 or FP4)"),
    (re.compile(r"\.SCB$"), "int8 of bitsandbytes"),
    (re.compile(r"\._(data|scale|zeropoint)(\.|$)"), "quanto"),
    (re.compile(r"\.(wscales|wtscale|wcscales|proj_down|lora_down|smooth|smooth_factor)$"), "SVDQuant (Nunchaku)"),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "GPTQ or AWQ"),
    (re.compile(r"_weight_qdata$|\.tensor_impl|:qdata$|_weight_scale_and_zero"), "torchao"),
    (re.compile(r"\.(weight_scale_2|weight_global_scale|weight_packed)$"), "NVFP4 or another 4-bit format"),
    (re.compile(r"\.(weight_scale_inv|weight_block_scale|block_scale)$"), "block-scaled fp8"),
    (re.compile(r"\.weight_(zero_point|zp)$"), "integers with a zero point"),
)

BLOCK_SCALED = Kind("block-scaled fp8 (one scale for each block of a weight)", _WIDE)


def of_names(
    names: Iterable[str], dtypes: Iterable[str] = (), metadata: Mapping[str, object] | None = None
) -> Kind | None:
    """Name the packing of a safetensors file's weights that is not read here, by its tensors' `names` and `dtypes` (as
    headers spell them). None: nothing says that they are packed.
    """
    for name in names:
        for pattern, what in _PACKED:
            if pattern.search(name):
                return Kind(f"weights in {what} ({name[:120]})", f"that is not read: {_WIDE}")
    packed = {"F4": "MXFP4 or NVFP4", "F6_E2M3": "FP6", "F6_E3M2": "FP6", "F8_E8M0": "MXFP8", "U32": "MLX's packing"}
    for dtype in dtypes:
        if dtype in packed:
            return Kind(f"weights in {packed[dtype]} (dtype {dtype})", f"that is not read: {_WIDE}")
    if "quantization_config" in (metadata or {}):
        return Kind(
            "weights that are quantised, as the header's quantization_config says", f"that is not read: {_WIDE}"
        )
    return None


_NETWORKS: tuple[tuple[str, str], ...] = (
    ("controlnet_blocks.", "a ControlNet"),
    ("controlnet_x_embedder.", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("double_stream_modulation_img.", "FLUX.2"),
    ("distilled_guidance_layer.", "Chroma"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("context_refiner.", "Z-Image or Lumina"),
    ("input_blocks.", "Stable Diffusion 1, 2 or XL"),
    ("down_blocks.", "Stable Diffusion 1, 2 or XL"),
    ("ip_adapter", "an IP-Adapter"),
    ("encoder.down.", "an autoencoder"),
    ("decoder.up.", "an autoencoder"),
    ("decoder.up_blocks.", "an autoencoder"),
    ("encoder.block.", "a T5 text encoder"),
    ("text_model.", "a CLIP text encoder"),
    ("vision_model.", "a CLIP or SigLIP image encoder"),
    ("redux_up.", "Redux (an add-on for a model beside it)"),
    ("emb_params", "an embedding (textual inversion)"),
)
_LORA = re.compile(r"lora_(up|down|A|B)|\.lora\.(up|down)|_lora\d?\.(up|down)|lokr_w|hada_w|oft_blocks")


def network(names: Iterable[str]) -> str | None:
    """Name what a file is whose tensors have these names, with its article, where that is known."""
    listed = list(names)
    if any(_LORA.search(name) for name in listed):
        return "a LoRA (name it in a request's `loras`, or with --lora)"
    for prefix, what in _NETWORKS:
        if any(
            name.startswith((prefix, f"model.diffusion_model.{prefix}", f"transformer.{prefix}")) for name in listed
        ):
            return what
    return None
