"""The LoRAs of a job → sides for its samples, and what the caller should know of them. Read ones are kept.

In: `Job.loras`, files that the gateway brought here. Out: `Applied`. Everything that can be wrong with a LoRA for this
model ends here as a 422 on `loras`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from impasto.engine.job import LoraInput, Notice
from impasto.errors import ModelError, ServiceUnavailable, WeightsError
from impasto.flux.adapters import FLOAT_BYTES, NO_LIMITS, Adapter, Limits, Plan, combine

if TYPE_CHECKING:
    from impasto.flux import pipeline as flux
    from impasto.flux.linear import Sides
    from impasto.settings import ModelSettings

KEPT_BYTES = 2 * 2**30  # of LoRAs beside the model, on its device, at most
SHARE = 4  # the LoRAs of one request take at most this part of the memory that is free beside the model
LEAST_BYTES = 64 * 2**20  # that they may take however little is free
NAMED = 5  # unmatched keys that a notice lists
FIELD = "loras"


@dataclass(frozen=True, slots=True)
class Applied:
    sides: Sides
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What LoRAs may take in memory: `each` of one, `together` bytes in float32 of all that one request names, `kept`
    bytes of those that are kept for later requests.
    """

    each: Limits = NO_LIMITS
    together: int = 2**62
    kept: int = KEPT_BYTES

    @classmethod
    def of(cls, settings: ModelSettings, *, parameters: int, free: int) -> Bounds:
        """The bounds of `settings`. What they leave at 0 follows from the memory plan: a quarter of the `free` bytes
        beside a model of so many `parameters`, and of one LoRA no more than the model's own weights in float32 (of
        all LoRAs of a request twice that).
        """
        share = max(free // SHARE, LEAST_BYTES)
        whole = max(FLOAT_BYTES * parameters, LEAST_BYTES)
        one = settings.lora_mb * 2**20 or min(share, whole)
        together = settings.loras_mb * 2**20 or max(min(share, 2 * whole), one)
        each = Limits(float_bytes=one, rank=settings.lora_rank, tensors=settings.lora_tensors)
        return cls(each=each, together=together, kept=min(KEPT_BYTES, max(share, one)))


class Loras:
    """The LoRAs read lately, by the digest of their files; the least recently used are let go first."""

    def __init__(self, model: flux.Pipeline, bounds: Bounds | None = None) -> None:
        self._model = model
        self._bounds = bounds or Bounds()
        self._read: OrderedDict[str, Adapter] = OrderedDict()

    def apply(self, loras: Sequence[LoraInput]) -> Applied:
        """Read the LoRAs and add them up. All are judged by their headers before any is read. Raises ModelError (422)
        at the one that is wrong; ServiceUnavailable when a file was deleted meanwhile.
        """
        plans = [self._read.get(lora.digest) or self._plan(lora, index) for index, lora in enumerate(loras)]
        self._judge(plans)
        adapters = [
            (self._adapter(lora, index, planned), lora.scale)
            for index, (lora, planned) in enumerate(zip(loras, plans, strict=True))
        ]
        notices = tuple(
            unmatched(lora.name, adapter.unmatched, self._model.spec.name)
            for lora, (adapter, _) in zip(loras, adapters, strict=True)
            if adapter.unmatched
        )
        return Applied(combine(adapters), notices)

    def clear(self) -> None:
        self._read.clear()

    def _judge(self, plans: Sequence[Plan | Adapter]) -> None:
        """Refuse LoRAs that are more together than one request may have, at the first that is too much."""
        taken = 0
        for index, plan in enumerate(plans):
            taken += plan.float_bytes
            if taken > self._bounds.together:
                message = (
                    f"The LoRAs of this request take {taken / 2**20:.1f} MiB in float32 up to this one; together they "
                    f"may take {self._bounds.together / 2**20:.1f} MiB (setting model.loras_mb)."
                )
                raise ModelError.at(f"{FIELD}.{index}.path", message, "value_error")

    def _plan(self, lora: LoraInput, index: int) -> Plan:
        with self._told(lora, index):
            return self._model.plan_lora(Path(lora.path), self._bounds.each)

    def _adapter(self, lora: LoraInput, index: int, planned: Plan | Adapter) -> Adapter:
        adapter = planned if isinstance(planned, Adapter) else self._read.get(lora.digest)
        if adapter is None and isinstance(planned, Plan):
            with self._told(lora, index):
                adapter = self._read[lora.digest] = self._model.read_lora(planned)
            self._shrink()
        assert adapter is not None
        with suppress(KeyError):  # another thread let it go
            self._read.move_to_end(lora.digest)
        return adapter

    @contextmanager
    def _told(self, lora: LoraInput, index: int) -> Generator[None]:
        """Say what is wrong with a LoRA as a 422 on its path, under the name that the request has for it."""
        try:
            yield
        except (WeightsError, OSError) as error:
            if not Path(lora.path).is_file():
                raise ServiceUnavailable(f"The LoRA {lora.name} is no longer on this machine; try again.") from None
            if isinstance(error, OSError):
                raise
            why = error.message.replace(Path(lora.path).name, lora.name)
            message = f"The LoRA {lora.name} cannot be used with {self._model.spec.name}. {why}"
            raise ModelError.at(f"{FIELD}.{index}.path", message, "value_error") from None

    def _shrink(self) -> None:
        kept = list(self._read.items())
        while len(kept) > 1 and sum(each.nbytes for _, each in kept) > self._bounds.kept:
            self._read.pop(kept.pop(0)[0], None)


def unmatched(name: str, keys: Sequence[str], model: str) -> Notice:
    listed = ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
    message = f"Of the LoRA {name}, {len(keys)} keys have no effect, since {model} has no such layer here: {listed}."
    return Notice(code="lora_keys_unmatched", message=message, field=FIELD)
