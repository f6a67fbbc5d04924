"""docs/reference/protocol-checklist.md: fifteen rows, and every test that a row names is there."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/protocol-checklist.md"
ROWS = 15


@cache
def names_in(path: str) -> set[str]:
    file = ROOT / path
    if not file.exists():
        return set()
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def named() -> dict[int, list[tuple[str, str]]]:
    """{row: its tests}"""
    found: dict[int, list[tuple[str, str]]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\d+) \|", line):
            found[int(row[1])] = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", line)
            assert found[int(row[1])] or "*open*" in line, f"row {row[1]} names no test and is not open"
    return found


def test_every_row_is_there_and_every_test_that_it_names(capsys) -> None:
    rows = named()
    assert list(rows) == list(range(1, ROWS + 1))
    missing = [f"{path}::{name}" for tests in rows.values() for path, name in tests if name not in names_in(path)]
    assert missing == []
    with capsys.disabled():
        print(f" protocol checklist: {sum(map(bool, rows.values()))} of {ROWS} rows proven", end=" ")
