"""Where things shall stand, read off words: what is added to MiniLM's states, and that the shipped layers read it."""

from __future__ import annotations

import pytest
import torch

from impasto.flux import places
from impasto.flux.checkpoint import EMBEDDED
from impasto.flux.minilm import WIDTH
from impasto.flux.text import MiniLMTextEncoder

FOLDER = EMBEDDED / "impasto-mini"

SAID = [  # none of these ways of saying it is a caption's
    ("a fox on the left side of a tree", {"fox": "left", "tree": "right"}),
    ("a fox on the right side of a tree", {"fox": "right", "tree": "left"}),
    ("a cat directly above a guitar, navy background", {"cat": "top", "guitar": "bottom"}),
    ("a cat directly below a guitar, navy background", {"cat": "bottom", "guitar": "top"}),
    ("a dragon to the left of a unicorn", {"dragon": "left", "unicorn": "right"}),
    ("a pig between an owl and a star", {"pig": "middle", "owl": "side", "star": "side"}),
    ("three cats on a red background", {"cats": "none", "red": "none"}),
    ("a dog", {"dog": "none"}),
]


@pytest.fixture(scope="module")
def encoder() -> MiniLMTextEncoder:
    return MiniLMTextEncoder.load(FOLDER)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> MiniLMTextEncoder:
    """The same without the layers that read places, as checkpoints before version 0.4 are."""
    folder = tmp_path_factory.mktemp("plain")
    for name in ("text_encoder.safetensors", "tokenizer.json"):
        (folder / name).symlink_to(FOLDER / name)
    return MiniLMTextEncoder.load(folder)


@pytest.mark.parametrize(("text", "wanted"), SAID, ids=[text for text, _ in SAID])
def test_the_shipped_layers_read_where_things_stand(
    encoder: MiniLMTextEncoder, plain: MiniLMTextEncoder, text: str, wanted: dict[str, str]
) -> None:
    added = encoder.encode([text]).txt[0] - plain.encode([text]).txt[0]
    *_, offsets = encoder.words([text])
    directions = encoder.places.directions if encoder.places is not None else None
    assert directions is not None
    read = {text[a:b]: place_of(added[i], directions) for i, (a, b) in enumerate(offsets[0]) if b > a}
    assert {word: read[word] for word in wanted} == wanted


def place_of(added: torch.Tensor, directions: torch.Tensor) -> str:
    """The direction that lies nearest to what was added."""
    return places.PLACES[int((directions - added).norm(dim=-1).argmin())]


def test_the_state_of_the_whole_prompt_and_the_padding_are_left_alone(
    encoder: MiniLMTextEncoder, plain: MiniLMTextEncoder
) -> None:
    text = "a cat to the left of a dog"
    ours, theirs = encoder.encode([text]), plain.encode([text])
    assert torch.equal(ours.vec, theirs.vec)
    assert not torch.equal(ours.txt, theirs.txt)
    assert not ours.txt[0, ours.counts[0] :].any()


def test_a_prompt_is_read_the_same_beside_a_longer_one(encoder: MiniLMTextEncoder) -> None:
    short, long = "a cat above a dog", "a very small picture of a purple butterfly below a yellow star on a teal wall"
    both = encoder.encode([short, long])
    for row, text in enumerate((short, long)):
        assert torch.allclose(both.txt[row], encoder.encode([text]).txt[0], atol=1e-4)


def test_without_directions_nothing_is_added() -> None:
    blank = places.Places().eval()
    embedded, states = torch.randn(2, 5, WIDTH), torch.randn(2, 5, WIDTH)
    with torch.inference_mode():
        assert not blank(embedded, states, None).any()
        assert torch.allclose(
            blank.logits(embedded, states, None), blank.logits(embedded, states, torch.ones(2, 5) > 0)
        )
