"""By which means a model's passes are made fast. `Means` holds what is there; `Run` asks it at every step.

    compiled    blocks through torch.compile        rounding of another order
    graphs      CUDA graphs by shape                the same bits
    attention   the kernel that was found fastest   rounding of another order
    fp8         linears in 8 bits                   changes the picture: only for who allows it

None of them is there unless a setting asks for it and the machine can do it; what is missing is told in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from impasto.flux import fp8, graphs
from impasto.flux.attention_choice import choose
from impasto.flux.compiled import Compiled
from impasto.flux.models import ModelSpec
from impasto.flux.transformer import Flux

log = logging.getLogger("impasto.flux")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the settings ask for. `folder`: where compiled code and what was measured are kept; None: nowhere."""

    compile: bool = False
    graphs: bool = False
    fp8: bool = False
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What is there."""

    compiled: Compiled | None = None
    graphs: graphs.Graphs | None = None
    fp8: fp8.Fp8 | None = None

    @classmethod
    def of(cls, model: Flux, spec: ModelSpec, wanted: Wanted) -> Means:
        """Sets up what is wanted and possible. Compiling may take a minute the first time."""
        device = next(model.parameters()).device
        if (attention := choose(model, folder=wanted.folder)) is not None:
            attention.use()  # before compiling, too: the kernel is compiled in
        quick = recorded = compiled = None
        if wanted.fp8:
            if (reason := fp8.obstacle(device)) is None:
                quick = fp8.Fp8(model)
                log.info("Linears of the blocks are kept in 8 bits, too")
            else:
                log.warning("No linears in 8 bits (model.fp8): %s", reason)
        if wanted.compile and wanted.folder is not None:
            rows = 2 if spec.guidance == "cfg" else 1
            compiled = Compiled.of(model, folder=wanted.folder, rows=rows)
        if wanted.graphs:
            if (reason := graphs.obstacle(device)) is None:
                recorded = graphs.Graphs(model)
            else:
                log.warning("No CUDA graphs (model.cuda_graphs): %s", reason)
        return cls(compiled, recorded, quick)

    @contextmanager
    def around(self, *, sides: bool, quick: bool) -> Generator[None]:
        """Within, passes go the way that a sample may take: with side branches or not, in 8 bits or not."""
        with ExitStack() as stack:
            if self.compiled is not None and sides:
                stack.enter_context(self.compiled.off())
            if self.fp8 is not None and quick:
                stack.enter_context(self.fp8.on())
            yield


PLAIN = Means()
