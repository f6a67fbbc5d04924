"""How much memory and time loading takes: ours against diffusers' `from_pretrained` on the same transformer.

    python benchmarks/loading.py [--gigabytes 1]

A FLUX transformer of about that size in bf16 is written as diffusers writes it, in shards, and read by each in a
process of its own. Printed: peak memory over what the process held before, in units of the weights, and CPU
seconds (the files are in the page cache).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

OURS = """
from impasto.flux import weights
from impasto.flux.checkpoint import Checkpoint
from impasto.flux.models import FLUX1_DEV
from impasto.flux.shapes import transformer_of_config
from impasto.flux.stored import read_json
from dataclasses import replace
params = transformer_of_config(read_json(folder / "transformer/config.json"), name="config")
point = Checkpoint(replace(FLUX1_DEV, transformer=params), folder, {})
load = lambda: weights.load_transformer(point, weights.Target(torch.device("cpu"), torch.bfloat16))
"""
THEIRS = """
from diffusers import FluxTransformer2DModel
load = lambda: FluxTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.bfloat16)
"""
MEASURE = """
import json, sys, time, torch
from pathlib import Path
folder = Path(sys.argv[1])
{setup}
def held(name): return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
start, cpu = time.perf_counter(), time.process_time()
model = load()
total = sum(float(p.view(-1)[::4096].float().sum()) for p in model.parameters())
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
size = sum(p.nbytes for p in model.parameters())
peak = held("VmHWM") - before
print(json.dumps({{"peak": round(peak / size, 2), "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    arguments = parser.parse_args()
    import torch
    from diffusers import FluxTransformer2DModel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layers = max(round(arguments.gigabytes * 1e9 / 2 / 38e6), 1)  # a single block of width 1536 has 38 M
        model = FluxTransformer2DModel(
            num_layers=1, num_single_layers=layers, num_attention_heads=12, guidance_embeds=True
        ).to(torch.bfloat16)
        model.save_pretrained(folder / "transformer", max_shard_size="400MB")
        results = {}
        for label, setup in (("impasto", OURS), ("diffusers", THEIRS)):
            code = MEASURE.format(setup=setup)
            done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
            results[label] = json.loads(done.stdout.splitlines()[-1])
            print(f"{label:<10} peak {results[label]['peak']:.2f} x weights, {results[label]['cpu_seconds']:.1f} CPU s")
    Path(__file__).parent.joinpath("results", "loading.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
