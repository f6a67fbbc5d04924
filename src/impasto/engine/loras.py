"""The LoRAs of a job → sides for its samples, and what the caller should know of them. Read ones are kept.

In: `Job.loras`, files that the gateway brought here. Out: `Applied`. Everything that can be wrong with a LoRA for this
model ends here as a 422 on `loras`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impasto.engine.job import LoraInput, Notice
from impasto.errors import ModelError, ServiceUnavailable, WeightsError
from impasto.flux.adapters import Adapter, combine

if TYPE_CHECKING:
    from impasto.flux import pipeline as flux
    from impasto.flux.linear import Sides

KEPT_BYTES = 2 * 2**30  # of LoRAs beside the model, on its device
NAMED = 5  # unmatched keys that a notice lists
FIELD = "loras"


@dataclass(frozen=True, slots=True)
class Applied:
    sides: Sides
    notices: tuple[Notice, ...] = ()


class Loras:
    """The LoRAs read lately, by the digest of their files; the least recently used are let go first."""

    def __init__(self, model: flux.Pipeline, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._model = model
        self._kept_bytes = kept_bytes
        self._read: OrderedDict[str, Adapter] = OrderedDict()

    def apply(self, loras: Sequence[LoraInput]) -> Applied:
        """Raises ModelError (422) at the one that is wrong; ServiceUnavailable when a file was deleted meanwhile."""
        adapters = [(self._adapter(lora, index), lora.scale) for index, lora in enumerate(loras)]
        notices = tuple(
            unmatched(lora.name, adapter.unmatched, self._model.spec.name)
            for lora, (adapter, _) in zip(loras, adapters, strict=True)
            if adapter.unmatched
        )
        return Applied(combine(adapters), notices)

    def clear(self) -> None:
        self._read.clear()

    def _adapter(self, lora: LoraInput, index: int) -> Adapter:
        if lora.digest not in self._read:
            try:
                self._read[lora.digest] = self._model.read_lora(Path(lora.path))
            except WeightsError as error:
                if not Path(lora.path).is_file():
                    raise ServiceUnavailable(f"The LoRA {lora.name} is no longer on this machine; try again.") from None
                why = error.message.replace(Path(lora.path).name, lora.name)
                message = f"The LoRA {lora.name} cannot be used with {self._model.spec.name}. {why}"
                raise ModelError.at(f"{FIELD}.{index}.path", message, "value_error") from None
            self._shrink()
        self._read.move_to_end(lora.digest)
        return self._read[lora.digest]

    def _shrink(self) -> None:
        while len(self._read) > 1 and sum(each.nbytes for each in self._read.values()) > self._kept_bytes:
            self._read.popitem(last=False)


def unmatched(name: str, keys: Sequence[str], model: str) -> Notice:
    listed = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
    message = f"Of the LoRA {name}, {len(keys)} keys have no effect, since {model} has no such layer here: {listed}."
    return Notice(code="lora_keys_unmatched", message=message, field=FIELD)
