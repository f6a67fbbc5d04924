"""diffusers' and transformers' own networks in our shapes, with seeded random weights: the peers that ours are held to.

Used by the tests (pytest puts this folder on their path) and by the benchmarks beside this file.
`transformer` and `autoencoder` make one network; `made` all of a small FLUX.1, `Made` says how our modules name them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from impasto.flux import keys
from impasto.flux.models import FLUX1_DEV, AutoencoderParams, ModelSpec, TransformerParams

AUTOENCODER = AutoencoderParams(
    in_channels=3,
    ch=32,
    out_ch=3,
    ch_mult=(1, 2, 2, 2),
    num_res_blocks=1,
    z_channels=16,
    scale_factor=0.3611,
    shift_factor=0.1159,
)
T5 = T5Config(
    vocab_size=32128,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
)
CLIP = CLIPTextConfig(
    vocab_size=49408,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=1,
    hidden_act="quick_gelu",
    bos_token_id=0,
    eos_token_id=2,
    pad_token_id=1,
)
SIGLIP = SiglipVisionConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1, image_size=56, patch_size=14
)


def transformer_params(spec: ModelSpec = FLUX1_DEV) -> TransformerParams:
    """A small transformer with the channels and the guidance of a published one."""
    return TransformerParams(
        in_channels=spec.transformer.in_channels,
        out_channels=64,
        vec_in_dim=64,
        context_in_dim=32,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=2,
        depth=1,
        depth_single_blocks=2,
        axes_dim=(8, 28, 28),
        theta=10_000,
        qkv_bias=True,
        guidance_embed=spec.transformer.guidance_embed,
    )


def randomised(module: Any, seed: int) -> Any:
    """Every parameter moved away from its initial value, so that no zero bias or unit scale hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval().requires_grad_(False)


def transformer(params: TransformerParams) -> FluxTransformer2DModel:
    """As diffusers initialises it."""
    return FluxTransformer2DModel(
        in_channels=params.in_channels,
        out_channels=params.out_channels,
        num_layers=params.depth,
        num_single_layers=params.depth_single_blocks,
        attention_head_dim=params.head_dim,
        num_attention_heads=params.num_heads,
        joint_attention_dim=params.context_in_dim,
        pooled_projection_dim=params.vec_in_dim,
        guidance_embeds=params.guidance_embed,
        axes_dims_rope=params.axes_dim,
    ).eval()


def autoencoder(params: AutoencoderParams) -> AutoencoderKL:
    """As diffusers initialises it."""
    levels = len(params.ch_mult)
    return AutoencoderKL(
        in_channels=params.in_channels,
        out_channels=params.out_ch,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=tuple(params.ch * mult for mult in params.ch_mult),
        layers_per_block=params.num_res_blocks,
        latent_channels=params.z_channels,
        norm_num_groups=params.norm_groups,
        scaling_factor=params.scale_factor,
        shift_factor=params.shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def diffusers_transformer(params: TransformerParams) -> FluxTransformer2DModel:
    torch.manual_seed(0)
    return randomised(transformer(params), 1)


def diffusers_autoencoder(params: AutoencoderParams = AUTOENCODER) -> AutoencoderKL:
    torch.manual_seed(0)
    return randomised(autoencoder(params), 2)


def text_encoders() -> tuple[T5EncoderModel, CLIPTextModel]:
    torch.manual_seed(0)
    return randomised(T5EncoderModel(T5), 3), randomised(CLIPTextModel(CLIP), 4)


def redux_parts() -> tuple[SiglipVisionModel, ReduxImageEncoder]:
    torch.manual_seed(0)
    projector = ReduxImageEncoder(redux_dim=SIGLIP.hidden_size, txt_in_features=T5.d_model)
    return randomised(SiglipVisionModel(SIGLIP), 5), randomised(projector, 6)


@dataclass(frozen=True)
class Made:
    """The networks of a checkpoint, as their own libraries hold them."""

    spec: ModelSpec
    transformer: FluxTransformer2DModel
    autoencoder: AutoencoderKL
    t5: T5EncoderModel
    clip: CLIPTextModel

    @property
    def small(self) -> ModelSpec:
        return replace(self.spec, transformer=transformer_params(self.spec), autoencoder=AUTOENCODER)

    def bfl(self) -> dict[str, Tensor]:
        """The transformer's tensors as BFL's single files name them."""
        return keys.from_diffusers(self.transformer.state_dict(), keys.transformer_rows(self.small.transformer))

    def bfl_autoencoder(self) -> dict[str, Tensor]:
        return keys.from_diffusers(self.autoencoder.state_dict(), keys.autoencoder_rows(AUTOENCODER))


def made(spec: ModelSpec = FLUX1_DEV) -> Made:
    """A small FLUX.1, the same weights every time."""
    t5, clip = text_encoders()
    return Made(spec, diffusers_transformer(transformer_params(spec)), diffusers_autoencoder(), t5, clip)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """How far apart, as a part of the peer's Euclidean norm."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
