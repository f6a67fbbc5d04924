"""Put together what the workers of pytest-xdist have seen, for the page that a whole run proves."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SPEC = importlib.util.spec_from_file_location("matrix", Path(__file__).parent / "conformance" / "matrix.py")
assert SPEC is not None
assert SPEC.loader is not None
matrix = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(matrix)

seen = matrix.Seen()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker saw; one that crashed has said nothing, and its tests are missing."""
    sent = getattr(node, "workeroutput", {}).get("matrix")
    if sent is not None:
        seen.add(sent)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if seen.expected:
        matrix.judge(session, seen)
