"""Help pytest-xdist: send reports that hold any text, and put together what its workers have seen."""

import importlib.util
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

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


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape lone surrogates: tests of hostile text log them, and a worker cannot send them."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _sendable(item) for name, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return type(value)(_sendable(item) for item in cast("list[Any]", value))
    return value
