"""Weights that live on the host and visit the device: layer-wise offload.

In: modules in the order in which they run, their large weights on the host. Out: the same modules, each of which has
its weights on the device while it runs, and not longer. Two slots on the device are all that it takes: one module runs
out of one while the next one's weights arrive in the other, on CUDA over a stream of its own. Nothing is computed
otherwise than with resident weights, so the result is the same to the bit.

The modules' forward hooks do it; the networks do not know. Two circuits of the transformer share the slots: the blocks,
which come round at every step, and the modulations, once a request (see `Flux.modulate`). T5 has slots of its own, only
while it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from impasto.flux.encoders import T5
from impasto.flux.residency import Residency, spread
from impasto.flux.transformer import Flux

ALIGNMENT = 256
"""Bytes at which tensors begin on the device, as its own allocator has them: kernels choose by it."""


class Copies(Protocol):
    """How weights get into a slot. Calls come in the order in which the work is launched, from one thread."""

    def start(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fill the slot: (place on the device, weight on the host) each. Waits for its last `release` by itself."""
        ...

    def wait(self, slot: int) -> None:
        """What is launched from here on finds the slot filled."""
        ...

    def release(self, slot: int) -> None:
        """What was launched so far is the last that reads the slot."""
        ...


class Plain:
    """Copies at once: a CPU runs things in order."""

    def start(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        for place, weight in pairs:
            place.copy_(weight)

    def wait(self, slot: int) -> None:
        pass

    def release(self, slot: int) -> None:
        pass


class SideStream:
    """Copies on a CUDA stream of their own, beside the computation. From page-locked memory no one waits for them."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._filled = (torch.cuda.Event(), torch.cuda.Event())
        self._read = (torch.cuda.Event(), torch.cuda.Event())

    def start(self, slot: int, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._stream.wait_event(self._read[slot])
        with torch.cuda.stream(self._stream):
            for place, weight in pairs:
                place.copy_(weight, non_blocking=True)
            self._filled[slot].record()

    def wait(self, slot: int) -> None:
        torch.cuda.current_stream().wait_event(self._filled[slot])

    def release(self, slot: int) -> None:
        self._read[slot].record()


@dataclass(eq=False, slots=True)
class Guest:
    """A module that visits: its large weights on the host, and where each of them goes in a slot."""

    module: nn.Module
    parameters: list[nn.Parameter]
    home: list[Tensor]
    offsets: list[int]
    places: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    following: Guest | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Guest:
        found = [parameter for name, parameter in module.named_parameters() if visits(name, parameter)]
        offsets, end = list[int](), 0
        for parameter in found:
            offsets.append(end)
            end += -(-parameter.nbytes // ALIGNMENT) * ALIGNMENT
        return cls(module, found, [parameter.data for parameter in found], offsets)

    @property
    def size(self) -> int:
        """Bytes of a slot that it takes."""
        return self.offsets[-1] + self.home[-1].nbytes if self.home else 0

    def measure(self, slot: int, room: Tensor) -> None:
        """Finds its places in `room`, the bytes of that slot."""
        self.places[slot][:] = [
            room[start : start + weight.nbytes].view(weight.dtype).view(weight.shape)
            for weight, start in zip(self.home, self.offsets, strict=True)
        ]

    def point(self, tensors: list[Tensor]) -> None:
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor


def visits(name: str, parameter: Tensor) -> bool:
    """Whether a parameter of a guest comes and goes with it: the matrices do; norms, biases and scales stay, as does
    T5's table of positions, which all blocks read; and a block's modulation is a guest of its own.
    """
    is_modulation = name.partition(".")[0] in {"img_mod", "txt_mod", "modulation"}
    is_table = "relative_attention_bias" in name
    return name.endswith(".weight") and parameter.ndim == 2 and not is_modulation and not is_table


class Stream:
    """The two slots, and who is in them. Used by one thread at a time, like the model.

    `within`: the module whose call they are there for. None: they are held for good (a slot that had to be allocated
    anew could run out of memory in the middle of a picture), and the first of a circuit follows its last.
    """

    def __init__(
        self,
        circuits: Sequence[Sequence[nn.Module]],
        device: torch.device,
        *,
        copies: Copies | None = None,
        within: nn.Module | None = None,
    ) -> None:
        rounds = [[Guest.of(module) for module in circuit] for circuit in circuits]
        self._guests = [guest for circuit in rounds for guest in circuit]
        self._device = device
        self._copies = copies or (SideStream(device) if device.type == "cuda" else Plain())
        self._rooms: list[Tensor] = []
        self._held: list[Guest | None] = [None, None]
        self._last = 1
        for circuit in rounds:
            first = circuit[:1] if within is None else [None]
            for guest, following in zip(circuit, [*circuit[1:], *first], strict=True):
                guest.following = following
                self._welcome(guest)
        if within is None:
            self._open()
        else:
            within.register_forward_pre_hook(self._open)
            within.register_forward_hook(self._close, always_call=True)

    @property
    def slot_bytes(self) -> int:
        """Bytes of each slot; 0 while there are none."""
        return self._rooms[0].nbytes if self._rooms else 0

    def _open(self, *_: Any) -> None:
        size = max((guest.size for guest in self._guests), default=0)
        self._rooms = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(2)]
        for slot, room in enumerate(self._rooms):
            self._copies.release(slot)  # the memory is new: whoever had it before must have finished
            for guest in self._guests:
                guest.measure(slot, room)

    def _close(self, *_: Any) -> None:
        for slot in range(2):  # after an error a copy may be under way, into memory that is about to be someone else's
            self._copies.wait(slot)
            self._copies.release(slot)
        for guest in self._guests:
            guest.places[0].clear()
            guest.places[1].clear()
        self._rooms.clear()
        self._held[:] = [None, None]
        self._last = 1

    def _welcome(self, guest: Guest) -> None:
        def enter(*_: Any) -> None:
            self._enter(guest)

        def leave(*_: Any) -> None:
            self._leave(guest)

        guest.module.register_forward_pre_hook(enter)
        # Also after an error: a failed request must not leave a block that points at another one's weights.
        guest.module.register_forward_hook(leave, always_call=True)

    def _enter(self, guest: Guest) -> None:
        if guest not in self._held:
            self._fetch(guest, 1 - self._last)
        self._last = self._held.index(guest)
        self._copies.wait(self._last)
        guest.point(guest.places[self._last])

    def _leave(self, guest: Guest) -> None:
        self._copies.release(self._last)
        guest.point(guest.home)
        # Only now: a copy out of memory that is not page-locked holds the host up, and the module is launched already.
        if guest.following is not None and guest.following not in self._held:
            self._fetch(guest.following, 1 - self._last)

    def _fetch(self, guest: Guest, slot: int) -> None:
        self._held[slot] = guest
        self._copies.start(slot, list(zip(guest.places[slot], guest.home, strict=True)))


def guests(model: Flux, residency: Residency) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """The modules of `model` that visit, by name: (modulations, blocks), each in the order in which they run."""
    blocks = [f"double_blocks.{i}" for i in range(len(model.double_blocks))]
    blocks += [f"single_blocks.{i}" for i in range(len(model.single_blocks))]
    names = [name for block in blocks for name in _modulations(block)] if residency.modulation_on_host else []
    moved = [blocks[i] for i in spread(len(blocks), residency.streamed)]
    return {name: model.get_submodule(name) for name in names}, {name: model.get_submodule(name) for name in moved}


def _modulations(block: str) -> tuple[str, ...]:
    parts = ("img_mod", "txt_mod") if block.startswith("double") else ("modulation",)
    return tuple(f"{block}.{part}" for part in parts)


def away(model: Flux, residency: Residency) -> frozenset[str]:
    """Keys of the parameters that live on the host."""
    found: set[str] = set()
    for circuit in guests(model, residency):
        for prefix, module in circuit.items():
            found.update(f"{prefix}.{name}" for name, each in module.named_parameters() if visits(name, each))
    return frozenset(found)


def install(model: Flux, residency: Residency, device: torch.device, *, copies: Copies | None = None) -> Stream | None:
    """Makes the weights that are `away` visit `device`, where the rest of the model is. None: all are there."""
    if not residency.streams:
        return None
    modulations, blocks = guests(model, residency)
    return Stream((list(modulations.values()), list(blocks.values())), device, copies=copies)


def text_away(model: T5) -> frozenset[str]:
    """Keys of T5's parameters that live on the host: the matrices of its blocks, and the words' table, in which they
    are looked up there.
    """
    found = {
        f"encoder.block.{i}.{name}"
        for i, block in enumerate(model.encoder.block)
        for name, each in block.named_parameters()
        if visits(name, each)
    }
    return frozenset(found | {"shared.weight"})


def install_text(model: T5, device: torch.device, *, copies: Copies | None = None) -> Stream:
    """Makes the blocks of a T5 whose weights are `text_away` visit `device` while it reads."""
    return Stream((list(model.encoder.block),), device, copies=copies, within=model)
