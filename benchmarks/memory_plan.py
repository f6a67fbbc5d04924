"""Where FLUX.1 [dev] goes on cards of four sizes, by the code that decides it when a model is loaded.

    python benchmarks/memory_plan.py

Nothing is measured here: weights are counted on the meta device, a picture of 1024x1024 from its size (what a GPU says
to that is in benchmarks/gpu/TODO.md). A card has its size less 0.6 GiB for CUDA itself, the host 57 of 64 GiB.
"""

import json
from pathlib import Path

import torch
from torch import nn

from impasto.engine.memory import plan
from impasto.flux import footprint
from impasto.flux.autoencoder import Autoencoder
from impasto.flux.encoders import T5, Clip
from impasto.flux.models import FLUX1_DEV, ClipParams, T5Params
from impasto.flux.residency import Kept, Needs
from impasto.flux.transformer import Flux

GIB = 2**30


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def needs(stored: Kept) -> Needs:
    params = FLUX1_DEV.transformer
    with torch.device("meta"):
        model = Flux(params)
        t5 = T5(T5Params())
        t5.encoder.embed_tokens.weight = t5.shared.weight  # one table by two names, as it is loaded
        text = parameters(t5) + parameters(Clip(ClipParams()))
        others = parameters(Autoencoder(FLUX1_DEV.autoencoder))
    matrices = {name for name, each in model.named_parameters() if "_blocks" in name and each.ndim == 2}
    narrow = footprint.transformer(params, itemsize=2, narrow=matrices)
    away, reading = footprint.text(T5Params(), tokens=512, itemsize=2)
    return Needs(
        name=FLUX1_DEV.name,
        transformer={"full": footprint.transformer(params, itemsize=2), "int8": narrow, "fp8": narrow},
        text=2 * text,
        text_on_host=away,
        reading=reading,
        others=2 * others,
        working=footprint.working(FLUX1_DEV, height=1024, width=1024, text_tokens=512, itemsize=2),
        stored=stored,
        mappable=True,
    )


def main() -> None:
    rows: list[dict[str, object]] = []
    for stored, bits in (("full", "auto"), ("full", "int8"), ("fp8", "auto")):
        for card in (80, 24, 16, 12, 8):
            it = needs(stored)
            found = plan(it, device_free=int((card - 0.6) * GIB), host_free=57 * GIB, bits=bits)
            row = {"file": "bf16" if stored == "full" else "fp8", "weights_dtype": bits, "card_gib": card}
            row |= {"gpu_gib": round(found.device / GIB, 1), "host_gib": round(found.host / GIB, 1)}
            away = it.transformer[found.residency.kept]
            moved = sum(away.blocks[i] for i in footprint.offload.spread(57, found.residency.streamed))
            rows.append(row | {"moved_a_step_gb": round(moved / 1e9, 1), "residency": found.residency.words})
    for row in rows:
        print("| " + " | ".join(str(value) for value in row.values()) + " |")
    Path(__file__).parent.joinpath("results", "memory_plan.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
