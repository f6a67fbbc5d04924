"""A checkpoint folder like the embedded one, with random transformer and autoencoder: what is tested here must not
depend on how well the shipped weights draw.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from impasto.flux.autoencoder import Autoencoder
from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.models import IMPASTO_MINI
from impasto.flux.pipeline import Pipeline
from impasto.flux.transformer import Flux
from impasto.training.assets import write_config

NAMES = ("text_encoder.safetensors", "text_places.safetensors", "tokenizer.json", "upscaler.safetensors")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save_file(Flux(IMPASTO_MINI.transformer).state_dict(), path / "transformer.safetensors")
    save_file(Autoencoder(IMPASTO_MINI.autoencoder).state_dict(), path / "autoencoder.safetensors")
    for name in NAMES:
        shutil.copyfile(EMBEDDED / IMPASTO_MINI.name / name, path / name)
    write_config(path, version="test", scale_factor=0.5, shift_factor=0.1)
    return path


@pytest.fixture(scope="session")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline.load(folder, device="cpu", dtype=torch.float32, threads=1)
