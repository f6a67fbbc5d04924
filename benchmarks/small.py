"""A FLUX.1 in small with random weights, in diffusers' layout: what the serving benchmarks draw with, and their peer.

hidden 512, 2 + 4 blocks, an autoencoder of a quarter of the published width, T5 of 6 layers, width 512, at 512 tokens.
Nothing is trained: only the time counts. `write` makes the folder; both impasto and `FluxPipeline.from_pretrained` read
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from impasto.flux import t5clip

WIDTH, HEADS, LAYERS, VEC = 512, 8, 6, 256


def write(folder: Path) -> Path:
    """→ the folder, some 300 MB in float32."""
    torch.manual_seed(0)
    clip = json.loads((t5clip.TOKENIZERS / "clip.json").read_text(encoding="utf-8"))["model"]
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, shift=3.0, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=AutoencoderKL(
            in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(32, 64, 128, 128), layers_per_block=2,
            latent_channels=16, norm_num_groups=32, use_quant_conv=False, use_post_quant_conv=False,
            scaling_factor=0.3611, shift_factor=0.1159,
        ),
        transformer=FluxTransformer2DModel(
            in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=128, num_attention_heads=4,
            joint_attention_dim=WIDTH, pooled_projection_dim=VEC, guidance_embeds=True, axes_dims_rope=(16, 56, 56),
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408, hidden_size=VEC, intermediate_size=4 * VEC, num_hidden_layers=LAYERS,
                num_attention_heads=VEC // 64, hidden_act="quick_gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
            )
        ),
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=32128, d_model=WIDTH, d_kv=64, d_ff=2 * WIDTH, num_layers=LAYERS, num_heads=HEADS,
                feed_forward_proj="gated-gelu", tie_word_embeddings=False,
            )
        ),
        tokenizer=CLIPTokenizer(
            vocab=clip["vocab"], merges=[tuple(pair) for pair in clip["merges"]], model_max_length=t5clip.CLIP_TOKENS
        ),
        tokenizer_2=T5TokenizerFast(
            tokenizer_file=str(t5clip.TOKENIZERS / "t5.json"), extra_ids=100, model_max_length=512
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder
