"""What distilling changed in a transformer: a small file beside the weights that it belongs to.

In: a transformer's tensors and such a file. Out: the distilled transformer's tensors. A layer whose change is kept as
two thin matrices, `X.lora_A.weight` [r, in] and `X.lora_B.weight` [out, r], has their product added to `X.weight`;
every other tensor of the file stands for itself (the guidance embedder, biases, norms). That is how BFL publishes
Canny and Depth as LoRAs of [dev].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from impasto.errors import WeightsError
from impasto.flux.stored import Shape, Tensors, open_stored

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class Distilled(Tensors):
    """`base` as the `change` has it. `name` names the change in errors; raises WeightsError when it is half there or
    does not fit the base.
    """

    def __init__(self, base: Tensors, change: Tensors, *, name: str) -> None:
        self._base = base
        self._change = change
        self._thin = {
            f"{key.removesuffix(DOWN)}.weight": (key, f"{key.removesuffix(DOWN)}{UP}")
            for key in change
            if key.endswith(DOWN)
        }
        ups = {up for _, up in self._thin.values()}
        lost = [key for key in change if key.endswith(UP) and key not in ups]
        lost += [up for up in ups if up not in change]
        if lost:
            raise WeightsError(f"{name}: half of a layer's change is missing, beside or at {min(lost)}.")
        for key, (down, up) in self._thin.items():
            given = (*change.shape(up), *change.shape(down))
            fits = len(given) == 4 and given[1] == given[2]
            if not fits or key in change or key not in base or base.shape(key) != (given[0], given[3]):
                raise WeightsError(f"{name}: {up} times {down} does not fit {key} of the weights beside it.")
        whole = dict.fromkeys(key for key in change if not key.endswith((DOWN, UP)))
        self._keys: dict[str, None] = dict.fromkeys(base) | whole

    def __getitem__(self, key: str) -> Tensor:
        if key in self._thin:
            down, up = (self._change[part].float() for part in self._thin[key])
            return torch.addmm(self._base[key].float(), up, down)
        return self._source(key)[key]

    def _source(self, key: str) -> Tensors:
        return self._change if key in self._change else self._base

    def _names(self) -> Mapping[str, object]:
        return self._keys

    def shape(self, key: str) -> Shape:
        return self._source(key).shape(key)

    def size(self, key: str) -> int:
        thin = sum(self._change.size(part) for part in self._thin.get(key, ()))
        return self._source(key).size(key) + thin

    def dtype(self, key: str) -> torch.dtype:
        return torch.float32 if key in self._thin else self._source(key).dtype(key)

    def is_mapped(self, key: str, *, narrow: bool = False) -> bool:
        return key not in self._thin and self._source(key).is_mapped(key, narrow=narrow)

    def keeps(self, key: str) -> bool:
        return key not in self._thin and self._source(key).keeps(key)

    def done(self, key: str) -> None:
        self._source(key).done(key)
        for part in self._thin.get(key, ()):
            self._change.done(part)


def read(base: Tensors, file: Path) -> Distilled:
    """The weights of `base` after what lies in `file`. Raises WeightsError."""
    return Distilled(base, open_stored(file), name=str(file))


def difference(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, rank: int) -> dict[str, Tensor]:
    """What `read` needs to make `tuned` of `base`: the best change of `rank` for every matrix that is larger than its
    two halves, whatever else differs as it is. Float32, as both are.
    """
    change: dict[str, Tensor] = {}
    for key, tensor in tuned.items():
        before = base.get(key)
        if before is not None and torch.equal(tensor.float(), before.float()):
            continue
        if before is not None and tensor.ndim == 2 and rank * sum(tensor.shape) < tensor.numel():
            u, s, vh = torch.linalg.svd(tensor.float() - before.float(), full_matrices=False)
            root = s[:rank].sqrt()
            layer = key.removesuffix(".weight")
            change[f"{layer}{DOWN}"], change[f"{layer}{UP}"] = root[:, None] * vh[:rank], u[:, :rank] * root
        else:
            change[key] = tensor.float()
    return change
