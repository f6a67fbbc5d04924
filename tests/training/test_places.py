"""What teaches the text encoder places: captions whose spans are told truly, and a training that repeats."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.flux import weights
from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.text import MiniLMTextEncoder
from impasto.training import places, recipe

MIX = recipe.load("cpu-pairs").mix


@pytest.fixture(scope="module")
def text() -> MiniLMTextEncoder:
    return MiniLMTextEncoder.load(EMBEDDED / "impasto-mini")


def test_spans_name_things_and_their_places() -> None:
    rng = np.random.default_rng(3)
    told = [places.tell(rng, MIX) for _ in range(500)]
    assert sum(not each.spans for each in told) > 50, "single things and counts have no place"
    for each in told:
        names = [each.text[start:end] for start, end, _ in each.spans]
        assert all(name.split()[0] in {"a", "an", "the"} for name in names), each
        found = [place for *_, place in each.spans]
        assert sorted(found) in (
            [], ["left", "right"], ["bottom", "top"], ["left", "middle", "right"], ["middle", "side", "side"],
        )  # fmt: skip


LANDMARK = re.compile(
    r"(?P<word>left of|right of|above|below|under|over|higher than|lower than) \{(?P<landmark>[ab])\}"
)


@pytest.mark.parametrize("table", [places.ROWS, places.COLUMNS], ids=["rows", "columns"])
def test_every_way_of_saying_it_names_both_and_speaks_of_one_direction(table: tuple[str, ...]) -> None:
    across, down = {"left", "right"}, {"top", "bottom", "above", "below", "under", "over", "upper", "lower"}
    for form in table:
        assert form.count("{a}") == form.count("{b}") == 1
        assert not set(form.replace(",", "").split()) & (down if table is places.ROWS else across), form
    assert len(set(table)) == len(table)


def test_ways_of_saying_it_with_a_landmark_are_true() -> None:
    """ "Left of b" and "above b" must be said of a, "right of a" and "below a" of b."""
    found = [match for form in (*places.ROWS, *places.COLUMNS) if (match := LANDMARK.search(form))]
    assert len(found) > 20
    for match in found:
        first = match["word"] in {"left of", "above", "over", "higher than"}
        assert match["landmark"] == ("b" if first else "a"), match.string


def test_a_token_gets_the_place_of_the_span_it_lies_in(text: MiniLMTextEncoder) -> None:
    said = "a red fox left of a pine tree"
    told = places.Told(said, ((0, 9, "left"), (18, 29, "right")))
    made = places.examples([told, places.Told("a dog", ())], text)
    # [CLS] a red fox left of a pine tree [SEP]
    assert made.places[0, :11].tolist() == [0, 1, 1, 1, 0, 0, 2, 2, 2, 0, -1]
    assert made.places[1, :5].tolist() == [0, 0, 0, 0, -1]
    assert made.keep.sum(dim=1).tolist() == [10, 4]


def test_a_training_repeats_to_the_bit_and_makes_a_file_that_loads(text: MiniLMTextEncoder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        right = places.train(MIX, text, tmp_path / f"{name}.safetensors", count=64, steps=2, held_out=32, seed=5)
        assert 0 <= right <= 1
    first, second = (weights.read(tmp_path / f"{name}.safetensors") for name in ("a", "b"))
    assert first.keys() == second.keys()
    assert all(torch.equal(second[key], tensor) for key, tensor in first.items())
    loaded = MiniLMTextEncoder.load(EMBEDDED / "impasto-mini", places=tmp_path / "a.safetensors")
    assert loaded.places is not None
    lengths = loaded.places.directions.norm(dim=-1)
    assert lengths[0] == 0
    assert lengths[1:].tolist() == pytest.approx([places.DISTANCE] * 6, rel=1e-3)
