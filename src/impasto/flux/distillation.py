"""What distilling changed in a transformer: a small file beside the weights that it belongs to.

In: a transformer's tensors and such a file. Out: the distilled transformer's tensors. `X.diff.weight`, in 8 bits with a
scale a row beside it, is added to the matrix `X.weight`; every other tensor of the file stands for itself (the guidance
embedder, biases, norms). 8 bits lose nothing that can be seen, since the change is a small part of the weight. Thin
matrices (a LoRA) of the same size lose far more, since Muon, which trains ours, changes every direction
(benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux.stored import SCALES, Shape, Tensors, open_stored

DIFF = ".diff.weight"
SCALE = SCALES[0]


class Distilled(Tensors):
    """`base` as the `change` has it. `name` names the change in errors; raises WeightsError when it does not fit."""

    def __init__(self, base: Tensors, change: Tensors, *, name: str) -> None:
        self._base = base
        self._change = change
        self._added = {f"{key.removesuffix(DIFF)}.weight": key for key in change if key.endswith(DIFF)}
        for key, diff in self._added.items():
            if key in change or key not in base or base.shape(key) != change.shape(diff):
                raise WeightsError(f"{name}: {diff} {list(change.shape(diff))} fits no {key} of the weights beside it.")
        whole = dict.fromkeys(key for key in change if not key.endswith(DIFF))
        self._keys: dict[str, None] = dict.fromkeys(base) | whole

    def __getitem__(self, key: str) -> Tensor:
        if key in self._added:
            return self._base[key].float() + self._change[self._added[key]].float()
        return self._source(key)[key]

    def _source(self, key: str) -> Tensors:
        return self._change if key in self._change else self._base

    def _names(self) -> Mapping[str, object]:
        return self._keys

    def shape(self, key: str) -> Shape:
        return self._source(key).shape(key)

    def size(self, key: str) -> int:
        added = self._change.size(self._added[key]) if key in self._added else 0
        return self._source(key).size(key) + added

    def dtype(self, key: str) -> torch.dtype:
        return torch.float32 if key in self._added else self._source(key).dtype(key)

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        return key not in self._added and self._source(key).is_mapped(key, narrow=narrow)

    def done(self, key: str) -> None:
        self._source(key).done(key)
        if key in self._added:
            self._change.done(self._added[key])


def read(base: Tensors, file: Path) -> Distilled:
    """The weights of `base` after what lies in `file`. Raises WeightsError."""
    return Distilled(base, open_stored(file), name=str(file))


def difference(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `read` needs to make `tuned` of `base`: changes of matrices in 8 bits, with float32 scales; whatever else
    differs as it is, in bf16.
    """
    change: dict[str, Tensor] = {}
    for key, tensor in tuned.items():
        before = base.get(key)
        if before is not None and torch.equal(tensor.float(), before.float()):
            continue
        if before is None or tensor.ndim != 2:
            change[key] = tensor.to(torch.bfloat16)
            continue
        diff, layer = tensor.float() - before.float(), key.removesuffix(".weight")
        scale = diff.abs().amax(dim=1).clamp_min(1e-12) / 127
        change[f"{layer}{DIFF}"] = (diff / scale[:, None]).round().to(torch.int8)
        change[f"{layer}.diff{SCALE}"] = scale
    return change
