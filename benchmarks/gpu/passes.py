"""Every way to make a pass of FLUX.1 fast, and a whole request by the best. For `check.py`, which has the clock."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from impasto.flux import latents as lat
from impasto.flux import schedule
from impasto.flux.attention_choice import choose
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.compiled import Compiled
from impasto.flux.conditioning import Conditioning
from impasto.flux.fp8 import Fp8
from impasto.flux.graphs import Graphs, record
from impasto.flux.means import PLAIN, Means
from impasto.flux.models import AutoencoderParams, ModelSpec
from impasto.flux.run import Run
from impasto.flux.step_cache import StepCache, Threshold
from impasto.flux.transformer import Flux

STEPS = 28


class Clock(Protocol):
    """Milliseconds of a run; None in a rehearsal."""

    def __call__(self, run: Callable[[], Any], *, warm: int = 3, count: int = 10) -> float | None: ...


def inputs(model: Flux, values: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Any]:
    """What `Flux.velocity` takes, from what `Flux.forward` takes."""
    vec = model.vector(values["timesteps"], values["y"], values["guidance"])
    pe = model.positions(values["txt_ids"], values["img_ids"])
    return values["img"], model.context(values["txt"]), pe, model.modulate(vec)


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@torch.inference_mode()
def passes(found: dict[str, Any], model: Flux, values: dict[str, Any], clock: Clock, *, rehearsal: bool) -> Means:
    """Times and errors of a pass by each way go into `found`; returns the ways for `request`. The blocks of `model` end
    up compiled.
    """
    given = inputs(model, values)
    found["velocity_ms"] = clock(lambda: model.velocity(*given))
    attention = choose(model, folder=None)
    found["attention"] = attention and attention.name
    if attention is not None:
        attention.use()
    exact = model.velocity(*given)
    found["chosen_attention_ms"] = clock(lambda: model.velocity(*given))
    recorder = (lambda run: run) if rehearsal else record
    graphs = Graphs(model, recorder)
    found["graph_same_bits"] = torch.equal(graphs.velocity(*given), exact)
    found["graph_ms"] = clock(lambda: graphs.velocity(*given))
    graphs.clear()
    cache = StepCache(Threshold(1e9, in_a_row=1000, settled=0.0), steps=STEPS)
    drawn = given[0].shape[1]
    cache.velocity(model, *given, drawn=drawn)
    found["reused_step_ms"] = clock(lambda: cache.velocity(model, *given, drawn=drawn))
    fp8 = Fp8(model)
    with fp8.on():
        found["fp8_apart"] = apart(model.velocity(*given), exact)
        found["fp8_ms"] = clock(lambda: model.velocity(*given))
    compiled = Compiled.of(model, folder=Path(tempfile.gettempdir()) / "impasto-gpu-check")
    if compiled is None:
        found["compiled_ms"] = "not compiled, see the log"
    else:
        found["compiled_apart"] = apart(model.velocity(*given), exact)
        found["compiled_ms"] = clock(lambda: model.velocity(*given))
        found["compiled_graph_ms"] = clock(lambda: graphs.velocity(*given))
        with fp8.on():
            found["compiled_fp8_apart"] = apart(model.velocity(*given), exact)
            found["compiled_fp8_ms"] = clock(lambda: model.velocity(*given))
    return replace(PLAIN, compiled=compiled, graphs=graphs, fp8=fp8)


@torch.inference_mode()
def request(
    found: dict[str, Any],
    model: Flux,
    spec: ModelSpec,
    coder: AutoencoderParams,
    values: dict[str, Any],
    clock: Clock,
    *,
    means: Means,
) -> None:
    """Milliseconds of all steps and the decoding of one picture, without the prompt: exact, in 8 bits, and in 8 bits
    with a step cache (of random weights, so that how many steps it reuses says nothing of a trained model).
    """
    own = next(model.parameters())
    side = int(values["img"].shape[1] ** 0.5) * 16
    words = Conditioning(values["txt"], values["y"].to(own.dtype), tokens=values["txt"].shape[1], truncated=False)
    with own.device:
        decoder = Autoencoder(coder).eval().to(own.dtype).channels_last()

    def picture(*, quick: bool, caching: Threshold | None) -> None:
        run = Run(
            model,
            spec,
            words,
            native=(side, side),
            steps=STEPS,
            guidance=3.5,
            caching=caching,
            means=means,
            quick=quick,
        )
        img = values["img"].float()
        for i in range(run.steps):
            velocity = run.velocity(i, img)
            img = schedule.euler(img, velocity, sigma=run.sigmas[i], sigma_next=run.sigmas[i + 1])
        decoder.decode(lat.unpack(img, side, side))

    ways = {
        "exact": {"quick": False, "caching": None},
        "fp8": {"quick": True, "caching": None},
        "fp8_step_cache": {"quick": True, "caching": Threshold(0.12)},
    }
    for name, way in ways.items():
        found[f"request_{name}_ms"] = clock(lambda way=way: picture(**way), warm=1, count=2)
