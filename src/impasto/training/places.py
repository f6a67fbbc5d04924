"""Training of `flux.places`: captions whose layout is known teach two layers where each word's thing stands.

In: MiniLM and the grammar of captions, widened by ways of saying it that no picture's caption has. Out:
`text_places.safetensors`. Words are all it needs, so it is done in minutes, and the transformer, which would have to
find the same out of noise, only has to look.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from impasto.flux.minilm import WIDTH
from impasto.flux.places import PLACES, Places
from impasto.flux.text import MiniLMTextEncoder
from impasto.training.captions import caption, nouns, related, sentence
from impasto.training.compose import Mix
from impasto.training.groups import Group, draw_pair
from impasto.training.records import draw_record

log = logging.getLogger(__name__)

DISTANCE = 8.0
"""Length of a place's direction. A word's state is 19.6 long."""

ROWS = (
    "{a} on the left, {b} on the right", "left {a}, right {b}", "{b} to the right, {a} to the left",
    "{a} at left and {b} at right", "{a} standing left of {b}", "{b} standing right of {a}",
    "{a} placed to the left of {b}", "{b} placed to the right of {a}", "{a} sits just left of {b}",
    "{b} sits just right of {a}", "{a} with {b} to its right", "{b} with {a} to its left",
    "to the left of {b} is {a}", "to the right of {a} is {b}", "left of {b} there is {a}", "right of {a} there is {b}",
    "{a} in the left half and {b} in the right half", "{b} in the right half, {a} in the left half",
    "{a} directly left of {b}", "{b} directly right of {a}", "{a} plus {b}", "{a} with {b}", "{a} beside {b}",
)  # fmt: skip
"""Ways to say that a stands left of b."""

COLUMNS = (
    "{a} at the top, {b} at the bottom", "{b} at the bottom, {a} at the top", "{a} on top, {b} underneath",
    "{a} placed above {b}", "{b} placed below {a}", "{a} sits above {b}", "{b} sits under {a}", "{a} just above {b}",
    "{b} just below {a}", "above {b} is {a}", "below {a} is {b}", "under {a} there is {b}", "over {b} there is {a}",
    "{a} with {b} beneath it", "{b} with {a} above it", "{a} in the upper half and {b} in the lower half",
    "{b} in the lower half, {a} in the upper half", "{a} higher than {b}", "{b} lower than {a}",
)  # fmt: skip
"""Ways to say that a stands above b."""

TOKENS = 32


@dataclass(frozen=True, slots=True)
class Told:
    """A caption; for each thing with a place, which characters name it, and the place."""

    text: str
    spans: tuple[tuple[int, int, str], ...]


def tell(rng: np.random.Generator, mix: Mix) -> Told:
    """A caption of the mix, half of the pairs said in words of the tables above."""
    if rng.random() >= 0.8:
        record = draw_record(rng, replace(mix, pairs=0.0))
        return Told(caption(record, rng), ())
    record = draw_pair(rng, mix)
    named = nouns(record, rng)
    if len(named) == 2 and rng.random() < 0.5:
        table = ROWS if record.layout == "row" else COLUMNS
        subject = table[int(rng.integers(len(table)))].format(a=named[0], b=named[1])
    else:
        subject = related(record, named, rng)
    text = sentence(record, subject, subject, rng)
    return Told(text, _spans(text, record, named))


def _spans(text: str, record: Group, named: list[str]) -> tuple[tuple[int, int, str], ...]:
    """Where in the text each member is named, and its place."""
    if len(named) == 3:
        places = ("side", "middle", "side") if " between " in text else ("left", "middle", "right")
    else:
        places = ("left", "right") if record.layout == "row" else ("top", "bottom")
    found: list[tuple[int, int, str]] = []
    for noun, place in zip(named, places, strict=True):
        start = text.index(noun)
        found.append((start, start + len(noun), place))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Examples:
    """Tokens of captions: `embedded` and `states` [N, 32, 384], `keep` [N, 32], `places` [N, 32], -1 at the padding."""

    embedded: Tensor
    states: Tensor
    keep: Tensor
    places: Tensor


def examples(told: list[Told], text: MiniLMTextEncoder, batch: int = 128) -> Examples:
    """Encodes captions and says of each of their tokens where its thing stands."""
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for start in range(0, len(told), batch):
        some = told[start : start + batch]
        embedded, states, keep, offsets = text.words([each.text for each in some])
        places = torch.where(keep, 0, -1)
        for row, each in enumerate(some):
            for begin, end, place in each.spans:
                for token, (first, last) in enumerate(offsets[row]):
                    if begin <= first < last <= end:
                        places[row, token] = PLACES.index(place)
        room = TOKENS - keep.shape[1]
        parts.append((
            F.pad(embedded, (0, 0, 0, room)).half(), F.pad(states, (0, 0, 0, room)).half(), F.pad(keep, (0, room)),
            F.pad(places, (0, room), value=-1),
        ))  # fmt: skip
    return Examples(*(torch.cat(column) for column in zip(*parts, strict=True)))


def train(
    mix: Mix,
    text: MiniLMTextEncoder,
    path: Path,
    *,
    count: int = 16_000,
    steps: int = 700,
    held_out: int = 1_000,
    seed: int = 41,
) -> float:
    """Trains and writes `path`; returns the share of words of `held_out` other captions whose place is read right."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    made = examples([tell(rng, mix) for _ in range(count)], text)
    judged = examples([tell(rng, mix) for _ in range(held_out)], text)
    log.info("places: %d captions", count)
    model = Places()
    with torch.no_grad():
        model.directions.copy_(_directions())
    parts = [parameter for name, parameter in model.named_parameters() if name != "directions"]
    optimiser = torch.optim.AdamW(parts, lr=1e-3, weight_decay=0.01)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 50) * min(1.0, (1 - step / steps) / 0.5)
        rows = torch.randint(count, (96,))
        loss = _loss(model, made, rows)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimiser.step()
        if step % 50 == 49:
            log.info("places: step %d loss %.4f, right %.4f", step + 1, loss.item(), right(model, judged))
    stored = {key: tensor.to(torch.float16).contiguous() for key, tensor in model.state_dict().items()}
    save_file(stored, path, {"license": "Apache-2.0", "source": "trained by impasto train default-model"})
    path.chmod(0o644)
    return right(model, judged)


def _loss(model: Places, made: Examples, rows: Tensor) -> Tensor:
    keep = made.keep[rows]
    width = int(keep.sum(dim=1).max())
    logits = model.logits(made.embedded[rows, :width].float(), made.states[rows, :width].float(), keep[:, :width])
    return F.cross_entropy(logits.flatten(0, 1), made.places[rows, :width].flatten(), ignore_index=-1)


@torch.no_grad()
def right(model: Places, made: Examples) -> float:
    """Of the words that name a thing with a place: how many are read right."""
    found = model.logits(made.embedded.float(), made.states.float(), made.keep).argmax(-1)
    named = made.places > 0
    return (found == made.places)[named].float().mean().item()


def _directions() -> Tensor:
    """One for each place, at right angles to each other, none for `none`."""
    raw, _ = torch.linalg.qr(torch.randn(WIDTH, len(PLACES)))
    directions = DISTANCE * raw.T
    directions[0] = 0
    return directions
