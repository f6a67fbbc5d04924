"""Log lines: readable, attributed, and never with a key in them."""

import io
import logging

import pytest

from impasto import telemetry

SECRETS = [
    "Authorization: Key 7d9f2a34-0000-4000-8000-abcdefabcdef:0123456789abcdef0123456789abcdef",
    "key 7d9f2a34-0000-4000-8000-abcdefabcdef:0123456789abcdef0123456789abcdef was used",
    "created 7d9f2a34-0000-4000-8000-abcdefabcdef:0123456789abcdef0123456789abcdef",
    "authorization: Bearer abcdefgh0123456789abcdef",
    "{'authorization': 'Key 0123456789abcdef'}",
    "Bearer eyJhbGciOiJI0123456789abcdef0123456789abcdef",
    "GET /ws?fal_jwt_token=0123456789abcdef0123456789abcdef&x=1",
    '{"token": "0123456789abcdef0123456789abcdef", "x": 1}',
    "FAL_KEY=0123456789abcdef0123456789abcdef",
    "GET /files/b/0007a120/x.png?identity=1800000000.0123456789abcdef0123456789abcdef&x=1",
    "PUT http://127.0.0.1:8000/files/b/0007a120/x.png?upload=0123456789abcdef0123456789abcdef.x",
]
PROSE = [
    "Key created: impasto keys list shows it",
    "requested 5 tokens: 4 in the prompt",
    "f0c5a2de-0000-4000-8000-000000000001 done in 3.2 s",
    "Basic settings are described in docs/settings.md",
]


@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_reaches_a_line(text: str) -> None:
    redacted = telemetry.redact(text)
    assert "0123456789abcdef" not in redacted
    assert "***" in redacted


@pytest.mark.parametrize("text", PROSE)
def test_prose_is_left_alone(text: str) -> None:
    assert telemetry.redact(text) == text


def test_the_id_of_a_key_stays_readable() -> None:
    key_id = "7d9f2a34-0000-4000-8000-abcdefabcdef"
    assert telemetry.redact(f"{key_id}:0123456789abcdef") == f"{key_id}:***"


@pytest.fixture
def lines() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def former_logging():
    root, ours = logging.getLogger(), logging.getLogger("impasto")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_line_names_time_level_and_request(lines: io.StringIO) -> None:
    telemetry.configure("info", stream=lines)
    token = telemetry.request_id.set("r-1")
    logging.getLogger("impasto.test").warning("Drawn by %s", "runner-1")
    telemetry.request_id.reset(token)
    logging.getLogger("impasto.test").info("later")
    first, second = lines.getvalue().splitlines()
    assert first[2] == ":"
    assert first.endswith("WARNING [r-1] Drawn by runner-1")
    assert second.endswith("INFO    later")


def test_a_traceback_is_redacted_too(lines: io.StringIO) -> None:
    telemetry.configure("info", stream=lines)
    try:
        raise ValueError(SECRETS[0])
    except ValueError:
        logging.getLogger("impasto.test").exception("failed")
    assert "Traceback" in lines.getvalue()
    assert "0123456789abcdef" not in lines.getvalue()


def test_the_level_holds_and_configuring_twice_prints_once(lines: io.StringIO) -> None:
    telemetry.configure("debug", stream=io.StringIO())
    telemetry.configure("warning", stream=lines)
    logging.getLogger("impasto.test").info("quiet")
    logging.getLogger("impasto.test").error("loud")
    logging.getLogger("somebody.else").info("quiet")
    assert len(lines.getvalue().splitlines()) == 1


def test_a_childs_lines_carry_their_level_for_the_parent(lines: io.StringIO) -> None:
    telemetry.configure("info", stream=lines, plain=True)
    logging.getLogger("impasto.runner").error("no weights")
    assert lines.getvalue() == "ERROR no weights\n"
