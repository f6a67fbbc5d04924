"""What both training loops share: the learning rate's course, the moving average of weights, and saved states."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def rate(peak: float, step: int, progress: float, *, decay_share: float, warmup: int = 100) -> float:
    """Learning rate: linear warm-up over `warmup` steps, `peak`, then linear to zero over the last `decay_share`."""
    up = min(1.0, (step + 1) / warmup)
    down = min(1.0, (1.0 - progress) / decay_share) if decay_share > 0 else 1.0
    return peak * up * max(down, 0.0)


class Optimisers:
    """Several optimisers over disjoint parameters, used as one. Each group carries its `peak` learning rate."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = tuple(parts)
        for group in self.param_groups:
            group["peak"] = group["lr"]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups of all parts."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        """One update of all parameters."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of all parts, by their place."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def make_optimiser(model: nn.Module, kind: Literal["adamw", "muon"], peak: float) -> Optimisers:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest (Jordan et al. 2024)."""
    if kind == "adamw":
        return Optimisers([torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)])
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "blocks." in name and "mod" not in name else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return Optimisers([muon, torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.98), weight_decay=0.01)])


class Average(Generic[M]):
    """Exponential moving average of a module's weights, faster while the run is young."""

    def __init__(self, module: M, decay: float) -> None:
        self.decay = decay
        self.module: M = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """Move towards the module's weights after the given number of steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for slow, fast in zip(self.module.parameters(), module.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)


def save_state(
    path: Path, model: M, optimiser: Optimisers | torch.optim.Optimizer, average: Average[M], step: int
) -> None:
    """Write all that resumption needs, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.module.state_dict(),
        "step": step,
    }
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path, model: M, optimiser: Optimisers | torch.optim.Optimizer, average: Average[M]) -> int:
    """Restore what `save_state` wrote; returns the number of steps done, 0 when there is no file."""
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    average.module.load_state_dict(state["average"])
    return int(state["step"])
