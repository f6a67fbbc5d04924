"""What a small model makes of words that it has never seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.errors import WeightsError
from impasto.flux.checkpoint import locate
from impasto.flux.pipeline import Pipeline
from impasto.flux.vocabulary import Vocabulary
from impasto.training import captions
from impasto.training.compose import Mix
from impasto.training.records import draw_record

STATED = {
    "vocabulary": {
        "things": {
            **{"cat": ["kitten"], "ice cream": ["ice cream cone"], "bird": ["birds"], "castle": ["fortress"]},
            **{"woman": [], "woman with red hair and dark skin": []},
        },
        "words": ["two", "red", "blue", "background", "left"],
    }
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    found = Vocabulary.of(STATED)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def reader(pipeline: Pipeline, vocabulary: Vocabulary) -> Pipeline:
    return Pipeline(
        pipeline.spec,
        transformer=pipeline._transformer,
        autoencoder=pipeline._autoencoder,
        text=pipeline._text,
        vocabulary=vocabulary,
    )


@pytest.mark.parametrize(
    ("prompt", "things", "unknown"),
    [
        ("a red cat", ("cat",), ()),
        ("Two CATS, please!", ("cat",), ()),
        ("kittens to the left of a fortress", ("cat", "castle"), ()),
        ("an ice cream cone", ("ice cream",), ()),
        ("ice on a blue background", (), ("ice",)),
        ("a samurai beside a cat", ("cat",), ("samurai", "beside")),
        ("ein roter Apfel", (), ("ein", "roter", "apfel")),
        ("猫, 3 кошки", (), ("猫", "кошки")),
        ("a woman with red hair and dark skin", ("woman with red hair and dark skin",), ()),
        ("a woman with a blue cat", ("woman", "cat"), ()),
        ("", (), ()),
        ("the", (), ()),
    ],
)
def test_a_prompt_is_read_by_names_longest_first(
    vocabulary: Vocabulary, prompt: str, things: tuple[str, ...], unknown: tuple[str, ...]
) -> None:
    reading = vocabulary.read(prompt)
    assert (reading.things, reading.unknown) == (things, unknown)


@pytest.mark.parametrize(
    ("prompt", "nearest"), [("a feline", "cat"), ("a parrot on a red background", "bird"), ("a stronghold", "castle")]
)
def test_what_is_not_known_is_read_as_the_nearest_known_thing(
    reader: Pipeline, pipeline: Pipeline, prompt: str, nearest: str
) -> None:
    found = reader.encode(prompt)
    assert found.instead == nearest
    assert found.unknown
    assert torch.equal(found.txt, pipeline.encode(f"{nearest}, {prompt}").txt)


@pytest.mark.parametrize("prompt", ["a red cat", "a samurai and a cat", "", "blue background"])
def test_a_prompt_with_a_known_thing_or_with_none_at_all_is_read_as_it_stands(
    reader: Pipeline, pipeline: Pipeline, prompt: str
) -> None:
    found = reader.encode(prompt)
    assert found.instead is None
    assert torch.equal(found.txt, pipeline.encode(prompt).txt)


def test_the_vocabulary_stands_in_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    assert locate(folder).vocabulary is None
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shutil.copytree(folder, tmp_path / "m", ignore=lambda *_: ["config.json"], copy_function=lambda a, b: None)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, **STATED}))
    found = locate(tmp_path / "m").vocabulary
    assert found is not None
    assert found.read("a kitten").things == ("cat",)
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "vocabulary": {"things": 3}}))
    with pytest.raises(WeightsError, match=r"config\.json"):
        locate(tmp_path / "m")


def test_every_word_that_training_says_is_known() -> None:
    mix = Mix(people=0.2, pairs=0.3, counts=0.2, scene=0.2)
    known = Vocabulary.of({"vocabulary": captions.vocabulary(mix)})
    assert known is not None
    rng = np.random.default_rng(9)
    for _ in range(2000):
        text = captions.caption(draw_record(rng, mix), rng)
        reading = known.read(text)
        assert reading.things, text
        assert not reading.unknown, (text, reading)
