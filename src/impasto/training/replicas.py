"""One model on several threads: each takes a share of the batch, and the gradients are added.

Threads inside an operation wait for each other a thousand times a step, which costs most on cores that are shared with
other work; here they wait once. The replicas share the model's weights, not its gradients, so there is nothing to copy
back, and the sum's order is fixed: a run repeats to the bit with the same number of workers.
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Replicas(Generic[M]):
    """`workers` views of one module; the first is the module itself."""

    def __init__(self, module: M, workers: int) -> None:
        self.modules: list[M] = [module, *(_view(module) for _ in range(workers - 1))]
        self._pool = ThreadPoolExecutor(workers)

    def backward(self, loss: Callable[[M, tuple[Tensor, ...]], Tensor], batch: Sequence[Tensor]) -> float:
        """Gradients of the mean loss over a batch, in the first module; returns that loss. `loss` gets a replica and
        its rows of every tensor.
        """
        count = len(batch[0])
        shares = list(zip(*(tensor.chunk(len(self.modules)) for tensor in batch), strict=True))

        def one(module: M, share: tuple[Tensor, ...]) -> float:
            part = loss(module, share) * (len(share[0]) / count)
            part.backward()
            return part.item()

        parts = list(self._pool.map(one, self.modules[: len(shares)], shares))
        for other in self.modules[1:]:
            for ours, theirs in zip(self.modules[0].parameters(), other.parameters(), strict=True):
                if theirs.grad is not None:
                    ours.grad = theirs.grad if ours.grad is None else ours.grad.add_(theirs.grad)
                    theirs.grad = None
        return sum(parts)


def _view(module: M) -> M:
    twin = copy.deepcopy(module)
    for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        theirs.data = ours.data
    return twin
