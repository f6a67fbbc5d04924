"""The shape of a network, read off a configuration or off the tensors themselves.

A published size is recognised by its width and taken from the table, but for its blocks: those from 0 to n-1 are a
model that was cut down, as some are published; a hole among them is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from impasto.errors import ModelUnavailable, WeightsError
from impasto.flux import keys, kinds
from impasto.flux.models import (
    FLUX1_DEV,
    AutoencoderParams,
    ClipParams,
    ReduxParams,
    T5Params,
    TransformerParams,
)
from impasto.flux.stored import Tensors


def is_transformer(tensors: Tensors) -> bool:
    """Whether they are a FLUX transformer's, in either dialect."""
    return _is_theirs(tensors) or _is_bfls(tensors)


def _is_bfls(tensors: Tensors) -> bool:
    return "img_in.weight" in tensors and "double_blocks.0.img_mod.lin.weight" in tensors


def _is_theirs(tensors: Tensors) -> bool:
    # The last layer tells it from a ControlNet of the same blocks.
    return {"x_embedder.weight", "transformer_blocks.0.attn.to_q.weight", "proj_out.weight"} <= tensors.keys()


def transformer(tensors: Tensors, *, name: str) -> TransformerParams:
    """Of a single file in either dialect. Raises ModelUnavailable when it holds no FLUX transformer."""
    if not is_transformer(tensors):
        some = ", ".join(list(tensors)[:3]) or "nothing"
        what = kinds.of_names(tensors) or kinds.network(tensors)
        why = f" It is {what}." if what else ""
        raise ModelUnavailable(f"{name}: holds no FLUX transformer (no img_in, double_blocks.0; it has {some}).{why}")
    theirs = _is_theirs(tensors)
    doubles = _blocks(tensors, "transformer_blocks." if theirs else "double_blocks.", name=name)
    singles = _blocks(tensors, "single_transformer_blocks." if theirs else "single_blocks.", name=name)
    if theirs:
        tensors = keys.Converted(tensors, keys.transformer_rows(FLUX1_DEV.transformer))
    try:
        hidden, in_channels = tensors.shape("img_in.weight")
        guidance = any(key.startswith("guidance_in.") for key in tensors)
        if hidden == FLUX1_DEV.transformer.hidden_size:
            return replace(
                FLUX1_DEV.transformer,
                in_channels=in_channels,
                guidance_embed=guidance,
                depth=doubles,
                depth_single_blocks=singles,
            )
        head_dim = tensors.shape("double_blocks.0.img_attn.norm.query_norm.scale")[0]
        return TransformerParams(
            in_channels=in_channels,
            out_channels=tensors.shape("final_layer.linear.weight")[0],
            vec_in_dim=tensors.shape("vector_in.in_layer.weight")[1],
            context_in_dim=tensors.shape("txt_in.weight")[1],
            hidden_size=hidden,
            mlp_ratio=tensors.shape("double_blocks.0.img_mlp.0.weight")[0] / hidden,
            num_heads=hidden // head_dim,
            depth=doubles,
            depth_single_blocks=singles,
            axes_dim=_axes(head_dim),
            theta=10_000,
            qkv_bias="double_blocks.0.img_attn.qkv.bias" in tensors,
            guidance_embed=guidance,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{name}: the transformer's shape cannot be told: {error} is missing or odd.") from None


def cut_down(params: TransformerParams) -> str:
    """Return a sentence about a FLUX.1 with fewer blocks than were published; "" for every other network.

    Nothing in the file tells a model that was cut down from one that lost its last blocks on the way.
    """
    whole = FLUX1_DEV.transformer
    blocks = (params.depth, params.depth_single_blocks)
    if params.hidden_size != whole.hidden_size or blocks == (whole.depth, whole.depth_single_blocks):
        return ""
    return (
        f"{blocks[0]} of {whole.depth} double blocks and {blocks[1]} of {whole.depth_single_blocks} single blocks: a "
        "model that was cut down. If its publisher says otherwise, the file lost its last blocks: fetch it again."
    )


def transformer_of_config(config: Mapping[str, Any], *, name: str) -> TransformerParams:
    """Of diffusers' transformer/config.json. Raises WeightsError."""
    try:
        heads, head_dim = int(config["num_attention_heads"]), int(config["attention_head_dim"])
        in_channels = int(config["in_channels"])
        return TransformerParams(
            in_channels=in_channels,
            # Early configurations leave it out: it was that of the input then.
            out_channels=int(config.get("out_channels") or in_channels),
            vec_in_dim=int(config["pooled_projection_dim"]),
            context_in_dim=int(config["joint_attention_dim"]),
            hidden_size=heads * head_dim,
            mlp_ratio=4.0,
            num_heads=heads,
            depth=int(config["num_layers"]),
            depth_single_blocks=int(config["num_single_layers"]),
            axes_dim=tuple(int(dim) for dim in config.get("axes_dims_rope") or _axes(head_dim)),
            theta=10_000,
            qkv_bias=True,
            guidance_embed=bool(config.get("guidance_embeds", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name}: {error} is missing or has a bad value.") from None


def autoencoder(tensors: Tensors, usual: AutoencoderParams) -> AutoencoderParams:
    """Of a single file in BFL's dialect; `usual` where it does not say otherwise, and for what no tensor tells."""
    if "encoder.conv_in.weight" not in tensors or "decoder.conv_in.weight" not in tensors:
        return usual
    ch = tensors.shape("encoder.conv_in.weight")[0]
    levels = _count(tensors, "encoder.down.")
    if ch == usual.ch or not levels:
        return usual
    return replace(
        usual,
        ch=ch,
        ch_mult=tuple(tensors.shape(f"encoder.down.{i}.block.0.conv1.weight")[0] // ch for i in range(levels)),
        num_res_blocks=_count(tensors, "encoder.down.0.block."),
        z_channels=tensors.shape("decoder.conv_in.weight")[1],
    )


def autoencoder_of_config(config: Mapping[str, Any], *, name: str) -> AutoencoderParams:
    """Of diffusers' vae/config.json. Raises WeightsError."""
    try:
        widths = [int(width) for width in config["block_out_channels"]]
        return AutoencoderParams(
            in_channels=int(config["in_channels"]),
            ch=widths[0],
            out_ch=int(config["out_channels"]),
            ch_mult=tuple(width // widths[0] for width in widths),
            num_res_blocks=int(config["layers_per_block"]),
            z_channels=int(config["latent_channels"]),
            scale_factor=float(config["scaling_factor"]),
            shift_factor=float(config["shift_factor"]),
            norm_groups=int(config["norm_num_groups"]),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"{name}: {error} is missing or has a bad value.") from None


def t5(tensors: Tensors) -> T5Params:
    """Of a T5 encoder's tensors. What cannot be told is taken to be T5-XXL's, so that the strict check names it."""
    try:
        vocab_size, d_model = tensors.shape("shared.weight")
        if d_model == T5Params().d_model:
            return T5Params()
        inner = tensors.shape("encoder.block.0.layer.0.SelfAttention.q.weight")[0]
        heads = tensors.shape("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")[1]
        return T5Params(
            d_model=d_model,
            d_ff=tensors.shape("encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
            d_kv=inner // heads,
            num_heads=heads,
            num_layers=_count(tensors, "encoder.block."),
            vocab_size=vocab_size,
        )
    except (KeyError, ValueError):
        return T5Params()


def clip(tensors: Tensors, config: Mapping[str, Any]) -> ClipParams:
    """Of a CLIP text encoder's tensors without `text_model.`; the heads, which no tensor tells, from `config`, else 64
    channels each.
    """
    try:
        vocab_size, hidden = tensors.shape("embeddings.token_embedding.weight")
        if hidden == ClipParams().hidden_size:
            return ClipParams()
        return ClipParams(
            hidden_size=hidden,
            intermediate_size=tensors.shape("encoder.layers.0.mlp.fc1.weight")[0],
            num_heads=int(config.get("num_attention_heads") or max(hidden // 64, 1)),
            num_layers=_count(tensors, "encoder.layers."),
            vocab_size=vocab_size,
            max_tokens=tensors.shape("embeddings.position_embedding.weight")[0],
        )
    except (KeyError, ValueError):
        return ClipParams()


def redux(encoder: Tensors, projector: Tensors, config: Mapping[str, Any]) -> ReduxParams:
    """Of SigLIP's tensors without `vision_model.` and of Redux's; the heads as in `clip`."""
    usual = ReduxParams()
    try:
        hidden, _, patch, _ = encoder.shape("embeddings.patch_embedding.weight")
        if hidden == usual.hidden_size:
            return usual
        return ReduxParams(
            hidden_size=hidden,
            intermediate_size=encoder.shape("encoder.layers.0.mlp.fc1.weight")[0],
            num_heads=int(config.get("num_attention_heads") or max(hidden // 64, 1)),
            num_layers=_count(encoder, "encoder.layers."),
            image_size=patch * round(encoder.shape("embeddings.position_embedding.weight")[0] ** 0.5),
            patch_size=patch,
            out_features=projector.shape("redux_down.weight")[0],
        )
    except (KeyError, ValueError):
        return usual


def _axes(head_dim: int) -> tuple[int, int, int]:
    """An eighth of the channels for the first axis, the rest by halves: FLUX.1's 16, 56, 56 of 128."""
    first = head_dim // 8
    return first, (head_dim - first) // 2, (head_dim - first) // 2


def _blocks(tensors: Tensors, prefix: str, *, name: str) -> int:
    """Count the blocks behind `prefix`, which must go from 0 to n-1. Raises WeightsError that names the holes."""
    count = _count(tensors, prefix)
    found = {key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix)}
    holes = [f"{prefix}{number}" for number in range(count) if str(number) not in found]
    if holes:
        some = ", ".join(holes[:8]) + (f" and {len(holes) - 8} more" if len(holes) > 8 else "")
        raise WeightsError(f"{name}: blocks are missing between others: {some}. Fetch it again.")
    return count


def _count(tensors: Tensors, prefix: str) -> int:
    """Highest number behind `prefix`, plus one: a gap below it is for the strict check to report."""
    numbers = (key.removeprefix(prefix).partition(".")[0] for key in tensors if key.startswith(prefix))
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)
