"""How close the parity suite comes to its bounds: the largest ratios of value to bound, with 1 and with 2 threads.

    python benchmarks/margins.py

A ratio of 1 fails. Each line: ratio, test; first of all tests, then of those in float32.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = 5


def measured(threads: int) -> list[tuple[float, str]]:
    """Run the suite with that many threads; return ratios and tests, the largest first."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "margins"
        environment = os.environ | {"IMPASTO_MARGINS": str(file), "IMPASTO_THREADS": str(threads)}
        command = [sys.executable, "-m", "pytest", "-q", "tests/flux/test_parity.py"]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=subprocess.DEVNULL)
        lines = file.read_text(encoding="utf-8").splitlines()
        print(f"{threads} threads: {'passed' if done.returncode == 0 else 'FAILED'}, {len(lines)} values")
    pairs = (line.split(" ", 1) for line in lines)
    return sorted(((float(ratio), name) for ratio, name in pairs), reverse=True)


def main() -> None:
    """Print the largest ratios."""
    for threads in (1, 2):
        ratios = measured(threads)
        exact = [each for each in ratios if "bf16" not in each[1]]
        for ratio, name in (*ratios[:SHOWN], *exact[:SHOWN]):
            print(f"  {ratio:.2f}  {name.removeprefix('tests/flux/')}")


if __name__ == "__main__":
    main()
