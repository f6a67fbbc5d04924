"""FLUX.1's prompts: the tokens are those of the original tokenizers, the states those of the original encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from transformers import CLIPTokenizer, T5TokenizerFast

from impasto.flux import t5clip, weights
from impasto.flux.checkpoint import locate
from impasto.flux.models import FLUX1_DEV, FLUX1_SCHNELL
from impasto.flux.t5clip import T5ClipTextEncoder, tokenizer

from ..checkpoints import Made, made, write_diffusers, write_single

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "token_ids.json").read_text(encoding="utf-8"))
CASES = FIXTURE["cases"]
"""Prompts with the ids of sentencepiece on T5's `spiece.model`, and of CLIP's published vocabulary and merges."""


@pytest.mark.parametrize("case", CASES, ids=[case["prompt"][:20] for case in CASES])
def test_token_ids_are_those_of_the_original_tokenizers(case: dict[str, object]) -> None:
    t5, clip = tokenizer("t5", 512).encode(str(case["prompt"])), tokenizer("clip", 77).encode(str(case["prompt"]))
    assert t5.ids[: sum(t5.attention_mask)] == case["t5"]
    assert clip.ids[: sum(clip.attention_mask)] == case["clip"]
    assert (len(t5.ids), len(clip.ids)) == (512, 77)
    assert set(t5.ids[sum(t5.attention_mask) :]) <= {0}
    assert set(clip.ids[sum(clip.attention_mask) :]) <= {49407}


@pytest.mark.parametrize("length", [512, 256])
def test_a_long_prompt_is_cut_before_its_end_mark(length: int) -> None:
    encoding = tokenizer("t5", length).encode("word " * 700)
    assert len(encoding.ids) == length
    assert encoding.ids[-1] == 1
    assert encoding.overflowing


@pytest.fixture(scope="module")
def parts() -> Made:
    return made()


def judge(parts: Made) -> FluxPipeline:
    """diffusers' pipeline with the tokenizers of transformers, from the files that we ship."""
    return FluxPipeline(
        scheduler=None,
        vae=parts.autoencoder,
        transformer=parts.transformer,
        text_encoder=parts.clip,
        text_encoder_2=parts.t5,
        tokenizer=CLIPTokenizer(**clip_files()),
        tokenizer_2=T5TokenizerFast(tokenizer_file=str(t5clip.TOKENIZERS / "t5.json"), extra_ids=100),
    )


def clip_files() -> dict[str, object]:
    model = json.loads((t5clip.TOKENIZERS / "clip.json").read_text(encoding="utf-8"))["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]], "model_max_length": 77}


@torch.inference_mode()
@pytest.mark.parametrize("spec", [FLUX1_DEV, FLUX1_SCHNELL], ids=lambda spec: spec.name)
@pytest.mark.parametrize("prompt", ["a red fox in the snow", "", "un café, déjà vu"])
def test_states_equal_those_of_diffusers(parts: Made, spec: object, prompt: str) -> None:
    length = spec.max_text_tokens  # type: ignore[attr-defined]
    states = parts.words(length).encode([prompt])
    txt, vec, _ = judge(parts).encode_prompt(prompt, prompt_2=prompt, max_sequence_length=length)
    assert states.txt.shape == (1, length, 32)
    torch.testing.assert_close(states.txt, txt, rtol=0, atol=0)
    torch.testing.assert_close(states.vec, vec, rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("layout", ["diffusers", "single"])
def test_encoders_load_from_either_layout_to_the_same_states(parts: Made, layout: str, tmp_path: Path) -> None:
    if layout == "diffusers":
        path = write_diffusers(tmp_path / "flux", parts)
    else:
        path = write_single(tmp_path / "flux", parts, name="some.safetensors")
    loaded = T5ClipTextEncoder.load(locate(path), weights.CPU)
    wanted = parts.words(512)
    for prompt in ("a red fox", "a"):
        got, expected = loaded.encode([prompt]), wanted.encode([prompt])
        assert torch.equal(got.txt, expected.txt)
        assert torch.equal(got.vec, expected.vec)
        assert got.counts == expected.counts
    assert loaded.t5.shared.weight.data_ptr() == loaded.t5.encoder.embed_tokens.weight.data_ptr(), "one embedding"
