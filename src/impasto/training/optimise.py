"""What both training loops share: the learning rate's course, the moving average of weights, and saved states."""

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

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

    def set_rate(self, share: float) -> None:
        """Every group at that share of its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * share

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


class Float32Muon(torch.optim.Muon):
    """Muon that orthogonalises in float32. Torch's own does it in bf16, which a processor without bf16 emulates: 13
    seconds a step of the embedded model on one core instead of 0.6. `workers` threads share the matrices, each of
    which one thread updates as a whole, so that their number changes no bit.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, workers: int = 1, **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        self._pool = ThreadPoolExecutor(workers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update of all parameters; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            for _ in self._pool.map(partial(self._update, group), group["params"]):
                pass

    @torch.no_grad()  # it counts by thread
    def _update(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        if parameter.grad is None:
            return
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalised(parameter.grad.lerp(buffer, group["momentum"]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        # the length of an AdamW update, so that one rate serves both (`match_rms_adamw`)
        parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix of singular values near one, by Newton and Schulz, with Jordan et al.'s numbers (2024)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / matrix.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if tall else x


def make_optimiser(
    model: nn.Module, kind: Literal["adamw", "muon"], peak: float, *, bf16: bool = True, workers: int = 1
) -> Optimisers:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest (Jordan et al. 2024).
    `bf16`: whether Muon may compute in it; where not, `workers` threads share its work.
    """
    if kind == "adamw":
        return Optimisers([torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)])
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "blocks." in name and "mod" not in name else rest).append(parameter)
    kernel = torch.optim.Muon if bf16 else partial(Float32Muon, workers=workers)
    muon = kernel(matrices, lr=peak, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw")
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
        get_ema_multi_avg_fn(decay)(list(self.module.parameters()), list(module.parameters()), None)


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
