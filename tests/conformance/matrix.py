"""The page docs/reference/clients.md, made from what the tests of this folder saw: which client, which verb.

A test says which cell it proves with `@pytest.mark.matrix(client, verb)`. After a run of all such tests the page is
made anew and compared; a stale one fails the run. `scripts/test tests/conformance --write-matrix` writes it.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "clients.md"

VERBS = (
    "run", "submit", "status", "result", "subscribe", "logs", "cancel", "upload", "status stream", "stream", "realtime",
    "ws", "errors",
)  # fmt: skip

# client → the one thing that points it here
LINES = {
    "fal-client 0.5.9": "`impasto exec -- python app.py`",
    "fal-client 0.5.9, async": "`impasto exec -- python app.py`",
    "fal-client 0.10.0": "`impasto exec -- python app.py`",
    "fal-client 0.10.0, async": "`impasto exec -- python app.py`",
    "fal-client 1.0.3": "`impasto exec -- python app.py`",
    "fal-client 1.0.3, async": "`impasto exec -- python app.py`",
    "@fal-ai/client 1.2.3, Node.js": "`impasto exec -- node app.mjs`",
    "@fal-ai/client 1.10.1, Node.js": "`impasto exec -- node app.mjs`",
    "@fal-ai/client 1.10.1, Node.js, proxyUrl": (
        '`fal.config({ proxyUrl: { url: "http://127.0.0.1:8000/api/fal/proxy", when: "always" } })`'
    ),
    "@fal-ai/client 1.10.1, Chromium": (
        '`fal.config({ proxyUrl: "http://127.0.0.1:8000/api/fal/proxy" })`; '
        "realtime: [four more](../clients.md#realtime-in-a-page)"
    ),
    "@fal-ai/client behind @fal-ai/server-proxy 1.2.1": "`impasto exec -- node server.mjs`",
    "fal 1.83.0 (fal.apps)": "`impasto exec -- python app.py`",
    "@ai-sdk/fal 2.0.59": '`createFal({ baseURL: "http://127.0.0.1:8000" })`, or `impasto exec`',
    "@ai-sdk/fal 3.0.41": '`createFal({ baseURL: "http://127.0.0.1:8000" })`, or `impasto exec`',
    "litellm 1.110.2": "`FAL_AI_API_BASE=http://127.0.0.1:8000`, or `impasto exec`",
    "huggingface_hub 2.4.0": "[one line](../clients.md#c-base-url-options), or `impasto exec`",
    "@huggingface/inference 4.13.30": "`impasto exec -- node app.mjs`",
    "axios, httpx: requests by hand": "`impasto exec`, or the base URL",
    "openai 3.57.0": "`OPENAI_BASE_URL=http://127.0.0.1:8000/openai/v1`",
    "openai 3.57.0, async": "`OPENAI_BASE_URL=http://127.0.0.1:8000/openai/v1`",
    "openai 6.49.0, Node.js": "`OPENAI_BASE_URL=http://127.0.0.1:8000/openai/v1`",
    "curl": "`http://127.0.0.1:8000/queue/…` for `https://queue.fal.run/…`",
}


@dataclass
class Seen:
    """The outcomes of one test run."""

    expected: set[tuple[str, str]] = field(default_factory=set)  # cells that the collected tests stand for
    passed: set[tuple[str, str]] = field(default_factory=set)
    failed: set[tuple[str, str]] = field(default_factory=set)
    whole: bool = True  # nothing was deselected

    def dump(self) -> dict[str, Any]:
        """Return the outcomes as plain lists: a worker of pytest-xdist can send them to the process that started it."""
        return {name: sorted(value) if isinstance(value, set) else value for name, value in asdict(self).items()}

    def add(self, sent: dict[str, Any]) -> None:
        """Add the outcomes that another process has seen."""
        for cells, name in ((self.expected, "expected"), (self.passed, "passed"), (self.failed, "failed")):
            cells |= {(client, verb) for client, verb in sent[name]}
        self.whole = self.whole and sent["whole"]


def judge(session: pytest.Session, seen: Seen) -> None:
    """Compare the page with what was seen, or write it, when the run took in every client of the page.

    A file or a test named on the command line proves no page.
    """
    clients = {client for client, _ in seen.expected}
    named = any("::" in argument for argument in session.config.args)
    if named or not seen.whole or clients != set(LINES) or seen.expected != seen.passed | seen.failed:
        return
    page = render(seen)
    if session.config.getoption("--write-matrix", default=False):
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        print(f"\n{PAGE} is stale: scripts/test tests/conformance --write-matrix renews it")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def render(seen: Seen) -> str:
    rows = []
    for client, line in LINES.items():
        cells = ["yes" if (client, verb) in seen.passed - seen.failed else "–" for verb in VERBS]
        rows.append(f"| {client} | {' | '.join(cells)} | {line} |")
    count = len(seen.passed - seen.failed)
    return "\n".join(
        [
            "# What was run with which client",
            "",
            f"Made by `scripts/test tests/conformance --write-matrix` from its own results: {count} cells, each a",
            "call by an unmodified client to `impasto serve`. A dash: the client has no such verb, or it was not run.",
            "The ways to point a client here, and their limits, are in [Clients](../clients.md).",
            "",
            f"| client | {' | '.join(VERBS)} | the line that points it here |",
            f"|---|{'---|' * len(VERBS)}---|",
            *rows,
            "",
        ]
    )
