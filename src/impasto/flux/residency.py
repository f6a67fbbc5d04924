"""Where the parts of a model live, and in how many bits: what a memory plan decides and loading carries out.

No torch here: plans are made, told and compared where no weights are. From the fastest to the smallest: everything on
the device; the large text encoder on the host, whose layers are copied over one by one when a prompt is read; the
modulation on the host, which is read once a request; some blocks or all of them on the host, each copied over right
before it runs. None of these changes a picture. Weights in 8 bits do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kept = Literal["full", "fp8", "int8"]
"""How the weights of the transformer's blocks are held: in the dtype of the computation, or in 8 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """What is not on the device. `streamed`: blocks whose weights visit the device; `kept`: bits of the blocks'
    weights; `mapped`: what is on the host is not copied out of the file when it lies there as it is needed, so that it
    takes no memory but is read at the file's pace.
    """

    text_on_host: bool = False
    modulation_on_host: bool = False
    streamed: int = 0
    kept: Kept = "full"
    mapped: bool = False

    @property
    def streams(self) -> bool:
        """Whether weights move while a picture is drawn."""
        return self.modulation_on_host or self.streamed > 0

    @property
    def visits(self) -> bool:
        """Whether any weights visit the device, the text encoder's included: one thread at a time may use them."""
        return self.streams or self.text_on_host

    @property
    def settled(self) -> bool:
        """Whether the weights stay where they are, as they are: what compiling, graphs and linears in fp8 need."""
        return not self.streams and self.kept == "full"

    @property
    def words(self) -> str:
        """For people: doctor, the log, `/v1/models`."""
        away = [name for name, is_away in (("T5", self.text_on_host),
                                           ("modulation", self.modulation_on_host)) if is_away]  # fmt: skip
        if self.streamed:
            away.append("1 block" if self.streamed == 1 else f"{self.streamed} blocks")
        where = f"{' and '.join([', '.join(away[:-1]), away[-1]] if len(away) > 1 else away)} on the host"
        bits = "" if self.kept == "full" else f", weights in {self.kept}"
        return f"{where if away else 'all on the device'}{' (read from the file)' if self.mapped else ''}{bits}"


EVERYTHING_NEAR = Residency()


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a transformer: what never leaves the device; the modulation of each block (two tensors in a double
    block, each copied on its own); the other weights of each block, in the order in which they run; the largest matrix
    that is widened for a product.
    """

    stays: int
    modulation: tuple[int, ...]
    blocks: tuple[int, ...]
    widened: int = 0

    @property
    def whole(self) -> int:
        return self.stays + sum(self.modulation) + sum(self.blocks)

    def away(self, residency: Residency) -> int:
        """Bytes on the host."""
        moved = sum(self.blocks[i] for i in spread(len(self.blocks), residency.streamed))
        return moved + (sum(self.modulation) if residency.modulation_on_host else 0)

    def near(self, residency: Residency) -> int:
        """Bytes on the device: what lives there, room for the two largest guests, and for a matrix made wide."""
        guests = [self.blocks[i] for i in spread(len(self.blocks), residency.streamed)]
        guests += self.modulation if residency.modulation_on_host else ()
        return self.whole - self.away(residency) + 2 * max(guests, default=0) + self.widened


def spread(total: int, count: int) -> tuple[int, ...]:
    """Which `count` of `total` blocks are away: evenly between the others, whose work hides the next one's copy."""
    return tuple(i * total // count for i in range(count)) if count else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes of a model by what can be moved. `transformer` by how its weights are held; `text`: the text encoders, of
    which `text_on_host` can live there and then take `reading` on the device while a prompt is read; `others`:
    autoencoder and add-ons; `working`: a picture in the making, which no prompt is read beside. `stored`: how the file
    holds the blocks; `mappable`: they can be used as they lie in the file.
    """

    name: str
    transformer: Mapping[Kept, Footprint]
    text: int
    text_on_host: int
    others: int
    working: int
    reading: int = 0
    stored: Kept = "full"
    mappable: bool = False
