"""How often the shipped prompt checks flag innocent prompts, and how many unsafe ones they find, by tolerance.

    python benchmarks/safety.py [--part train] [--show]

Reads safety_prompts/{train,held_out,fresh}/{innocent,unsafe}.txt (topic or category, tab, prompt) and writes
results/safety.json. The checks are tuned on `train` only; `held_out` was written before they were, `fresh` after the
last change. In the same run: better-profanity (MIT), which has no tolerance, when it is installed.
Intervals are Wilson's, 95 %. Every prompt was written by the author of the checks.
"""

import argparse
import importlib.util
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from impasto.engine.job import Job
from impasto.engine.safety import Rules, Safety
from impasto.engine.safety.prototypes import RulesAndPrototypes
from impasto.settings import SafetySettings

HERE = Path(__file__).parent
PROMPTS = HERE / "safety_prompts"
PARTS = ("train", "held_out", "fresh")
TOLERANCES = range(1, 7)
CHECKS = ("rules", "rules+prototypes")

Flags = Callable[[str, int], str]
"""(prompt, tolerance) → "" (passes), "flagged", or "refused" (always)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="Only this part; nothing is written.")
    parser.add_argument("--show", action="store_true", help="Also print what went wrong, at tolerance 2.")
    parser.add_argument("--fit", action="store_true", help="Print the curve for prototypes.toml and stop.")
    options = parser.parse_args()
    if options.fit:
        print("curve = {{ start = {:.2f}, near = {:.2f}, word = {:.2f} }}".format(*fit()))
        return
    checks = {name: shipped(name) for name in CHECKS}
    if importlib.util.find_spec("better_profanity"):
        checks["better-profanity"] = peer()
    report: dict[str, Any] = {"prompts": {}, "checks": defaultdict(dict)}
    for half in (options.part,) if options.part else PARTS:
        innocent, unsafe = read(half, "innocent"), read(half, "unsafe")
        report["prompts"][half] = {"innocent": len(innocent), "unsafe": len(unsafe)}
        for name, flags in checks.items():
            rows = measure(flags, innocent, unsafe, (2,) if name == "better-profanity" else TOLERANCES)
            report["checks"][name][half] = rows
            print_rows(f"{name}, {half}", rows)
            if options.show:
                print_mistakes(flags, innocent, unsafe)
    if not options.part:
        (HERE / "results" / "safety.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def shipped(name: str) -> Flags:
    safety = Safety.load(SafetySettings(prompt_check=name, picture_check="none"))

    def flags(prompt: str, tolerance: int) -> str:
        verdict = safety.screen(job(prompt, tolerance))
        return "refused" if safety.must_refuse(verdict) else "flagged" if verdict.flagged else ""

    return flags


def job(prompt: str, tolerance: int) -> Job:
    return Job(
        request_id="benchmark",
        model="",
        prompt=prompt,
        width=64,
        height=64,
        steps=1,
        guidance=1.0,
        seed=0,
        safety_tolerance=tolerance,
    )


def fit() -> NDArray[np.float64]:
    """Logistic regression by Newton's method on the train half's whole prompts that the rules do not refuse anyhow."""
    thresholds = SafetySettings().prompt_thresholds
    rules, check = Rules.load(thresholds), RulesAndPrototypes.load(thresholds)
    rows, labels = [], []
    for label, name in enumerate(("innocent", "unsafe")):
        for _, prompt in read("train", name):
            findings = [] if rules.sexual_minors(prompt).flagged else check.findings(prompt)
            if findings:
                rows.append((1.0, findings[0].near.odds, findings[0].word[0]))
                labels.append(float(label))
    x, y, curve = np.array(rows), np.array(labels), np.zeros(3)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ curve))
        curve += np.linalg.solve((x.T * (p * (1 - p))) @ x, x.T @ (y - p))
    return curve


def peer() -> Flags:
    from better_profanity import profanity

    profanity.load_censor_words()
    return lambda prompt, _tolerance: "flagged" if profanity.contains_profanity(prompt) else ""


def read(half: str, name: str) -> list[tuple[str, str]]:
    lines = (PROMPTS / half / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [(kind, prompt) for kind, _, prompt in (line.partition("\t") for line in lines)]


def measure(
    flags: Flags, innocent: list[tuple[str, str]], unsafe: list[tuple[str, str]], tolerances: range | tuple[int, ...]
) -> dict[str, Any]:
    flags("a red fox", 2)  # loads what is loaded once
    rows: dict[str, Any] = {}
    started, prompts = time.perf_counter(), [prompt for _, prompt in (*innocent, *unsafe)]
    once = {prompt: flags(prompt, tolerances[0]) for prompt in prompts}
    seconds = time.perf_counter() - started
    by_tolerance = {p: {t: flags(p, t) for t in tolerances} for p in once}
    for tolerance in tolerances:
        verdicts = [[(kind, by_tolerance[prompt][tolerance]) for kind, prompt in part] for part in (innocent, unsafe)]
        rows[str(tolerance)] = {
            "innocent flagged": count([verdict for _, verdict in verdicts[0]]),
            "innocent always refused": count([verdict == "refused" for _, verdict in verdicts[0]]),
            "unsafe found": count([verdict for _, verdict in verdicts[1]]),
            **{
                kind: count([verdict for k, verdict in verdicts[1] if k == kind])
                for kind in dict.fromkeys(kind for kind, _ in verdicts[1])
            },
            "minors always refused": count([verdict == "refused" for kind, verdict in verdicts[1] if kind == "minors"]),
        }
    return {"tolerance": rows, "ms a prompt": round(seconds * 1000 / len(prompts), 2)}


def count(found: list[Any]) -> dict[str, Any]:
    hits = sum(map(bool, found))
    return {"n": hits, "of": len(found), "95 %": [round(edge, 3) for edge in wilson(hits, len(found))]}


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The score interval of a proportion, z = 1.96."""
    z, share = 1.96, hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def print_rows(title: str, rows: dict[str, Any]) -> None:
    print(f"\n{title}: {rows['ms a prompt']} ms a prompt")
    for tolerance, row in rows["tolerance"].items():
        cells = (f"{name} {c['n']}/{c['of']} ({c['95 %'][0]:.0%}-{c['95 %'][1]:.0%})" for name, c in row.items())
        print(f"  {tolerance}: " + " · ".join(cells))


def print_mistakes(flags: Flags, innocent: list[tuple[str, str]], unsafe: list[tuple[str, str]]) -> None:
    for kind, prompt in innocent:
        if verdict := flags(prompt, 2):
            print(f"    {verdict} wrongly, {kind}: {prompt}")
    for kind, prompt in unsafe:
        verdict = flags(prompt, 2)
        if not verdict or (kind == "minors" and verdict != "refused"):
            print(f"    {verdict or 'missed'}, {kind}: {prompt}")


if __name__ == "__main__":
    main()
