"""Our MiniLM is BERT to the last bit, and spares who draws with it the import of transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.minilm import MiniLM
from impasto.flux.text import LAYERS

FOLDER = EMBEDDED / "impasto-mini"


@pytest.fixture(scope="module")
def models() -> tuple[MiniLM, BertModel]:
    state = {name: tensor.float() for name, tensor in load_file(FOLDER / "text_encoder.safetensors").items()}
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=LAYERS, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=512,
    )  # fmt: skip
    ours, theirs = MiniLM(LAYERS).eval(), BertModel(config, add_pooling_layer=False).eval()
    ours.load_state_dict(state)
    theirs.load_state_dict(state, strict=False)
    return ours, theirs


@torch.inference_mode()
@pytest.mark.parametrize(
    "prompts",
    [
        ["a red apple"],
        [""],
        ["two blue boats on a lake, one larger than the other " * 3],
        ["a fox", "a very small key"],
    ],
)
def test_states_are_those_of_transformers(models: tuple[MiniLM, BertModel], prompts: list[str]) -> None:
    ours, theirs = models
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(prompts)
    ids = torch.tensor([encoding.ids for encoding in encodings])
    mask = torch.tensor([encoding.attention_mask for encoding in encodings])
    expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
    states = ours(ids, None if mask.all() else mask.bool())
    torch.testing.assert_close(states, expected, rtol=0, atol=0)


def test_drawing_with_the_embedded_model_imports_no_transformers(tmp_path: Path) -> None:
    code = """
import sys
from impasto.flux.pipeline import Pipeline
pipeline = Pipeline.load("impasto-mini", device="cpu", threads=1)
pipeline.encode("a red apple")
print([name for name in ("transformers", "torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
