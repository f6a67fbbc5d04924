"""Pictures that follow each other, with and without overlap: what reading ahead and decoding beside the steps brings.

    python benchmarks/overlap.py [--pictures 6] [--rounds 4] [--cores 1 2]

Through the runner's own engine, two requests at a time as a server gives them, every prompt new. Rounds of both ways
alternate, so that other work on the machine hits both; `--cores` leaves the process so many. Seconds a picture: wall
(best round), CPU of all threads, and CPU of the engine's own thread, which makes the steps: with a core idle for the
rest, that is what a picture would take. The peer is the engine without overlap, same weights, threads and run; the
pictures' bytes must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the runner has it
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import small

from impasto.engine.drawing import Finisher, draw
from impasto.engine.engine import Engine
from impasto.engine.flux import FluxPipeline
from impasto.engine.job import Job, JobResult
from impasto.engine.loading import load_pipeline
from impasto.engine.safety import Safety
from impasto.files.images import encode
from impasto.flux import precision
from impasto.settings import ModelSettings, SafetySettings

RESULTS = Path(__file__).parent / "results" / "overlap.json"
SLOTS = 2
THINGS = ("apple", "boat", "fox", "tree", "star", "cup", "key", "car")


class Waiter:
    """A sink that counts what is done."""

    def __init__(self, pictures: int) -> None:
        self.left, self.over, self.slots = pictures, threading.Event(), threading.Semaphore(SLOTS)
        self.bytes: dict[str, bytes] = {}

    def log(self, *_: object, **__: object) -> None: ...

    progress = preview = log

    def done(self, job: Job, lease: str, result: JobResult) -> None:
        self.bytes[job.prompt] = result.pictures[0].data
        self.slots.release()
        self.left -= 1
        if not self.left:
            self.over.set()

    def failed(self, job: Job, lease: str, failure: object) -> None:
        raise SystemExit(f"{job.request_id} failed: {failure}")

    def released(self, job: Job, lease: str) -> None:
        raise SystemExit(f"{job.request_id} was released")


def job(number: int, *, model: str, size: tuple[int, int], steps: int) -> Job:
    return Job(
        request_id=str(number), model=model, prompt=f"{number} of a red {THINGS[number % len(THINGS)]}",
        width=size[0], height=size[1], steps=steps, guidance=3.5, seed=number,
    )  # fmt: skip


@dataclass(frozen=True)
class Spent:
    """Seconds a picture, and the pictures by their prompts."""

    wall: float
    cpu: float
    engine: float
    bytes: dict[str, bytes]


def run(pipeline: FluxPipeline, finisher: Finisher, jobs: list[Job], *, overlaps: bool) -> Spent:
    pipeline.overlaps = overlaps
    waiter = Waiter(len(jobs))
    engine = Engine(pipeline=pipeline, finisher=finisher, sink=waiter)
    engine.start()
    wall, cpu = time.perf_counter(), time.process_time()
    for each in jobs:
        waiter.slots.acquire()
        engine.submit(each, each.request_id)
    waiter.over.wait()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ident = next(thread.ident for thread in threading.enumerate() if thread.name == "impasto-engine")
    assert ident is not None
    own = time.clock_gettime(time.pthread_getcpuclockid(ident))
    engine.drain(0)
    engine.join()
    count = len(jobs)
    return Spent(wall / count, cpu / count, own / count, waiter.bytes)


def measure(
    pipeline: FluxPipeline, finisher: Finisher, options: argparse.Namespace, size: tuple[int, int], steps: int
) -> dict[str, Any]:
    draw(job(0, model=pipeline.models[0], size=size, steps=1), pipeline=pipeline, finisher=finisher)
    found: dict[bool, list[Spent]] = {False: [], True: []}
    for number in range(options.rounds):
        jobs = [
            job(number * options.pictures + i, model=pipeline.models[0], size=size, steps=steps)
            for i in range(options.pictures)
        ]
        for overlaps in found:
            found[overlaps].append(run(pipeline, finisher, jobs, overlaps=overlaps))
        if found[False][-1].bytes != found[True][-1].bytes:
            raise SystemExit("the pictures differ")
    row: dict[str, Any] = {"model": pipeline.models[0], "size": list(size), "steps": steps}
    for overlaps, name in ((False, "in_turn"), (True, "overlapping")):
        each = found[overlaps]
        row[name] = {
            "wall": min(x.wall for x in each), "cpu": min(x.cpu for x in each), "engine": min(x.engine for x in each)
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    finisher = Finisher(Safety.load(SafetySettings()), encode)
    every = sorted(os.sched_getaffinity(0))
    rows: list[dict[str, Any]] = []
    print(f"{'model':<12} {'cores':>5} {'':<12} {'wall s':>8} {'CPU s':>8} {'engine CPU s':>13}")
    with tempfile.TemporaryDirectory() as folder:
        cases = (("impasto-mini", (1024, 768), 28), (str(small.write(Path(folder))), (256, 256), 8))
        for name, size, steps in cases:
            pipeline = load_pipeline(ModelSettings(name=name, device=options.device, threads=1, overlap="on"))
            assert isinstance(pipeline, FluxPipeline)
            for cores in options.cores:
                for task in os.listdir("/proc/self/task"):
                    os.sched_setaffinity(int(task), every[:cores])
                row = {"cores": cores, **measure(pipeline, finisher, options, size, steps)}
                rows.append(row)
                for way in ("in_turn", "overlapping"):
                    spent = row[way]
                    print(
                        f"{row['model']:<12} {cores:>5} {way:<12} {spent['wall']:>8.3f} {spent['cpu']:>8.3f} "
                        f"{spent['engine']:>13.3f}",
                        flush=True,
                    )
                report = {
                    "features": sorted(precision.cpu_features()), "load": os.getloadavg(), "pictures": options.pictures,
                    "rounds": options.rounds, "unit": "seconds a picture, 1 thread, best round", "rows": rows,
                }  # fmt: skip
                options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
