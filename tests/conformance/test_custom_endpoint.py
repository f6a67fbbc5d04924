"""The example of docs/custom-endpoints.md, served by a real process and called by fal's own client."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from .conftest import PATIENCE, Server

FOLDER = Path(__file__).parents[2] / "examples" / "custom-endpoint"
SOURCE = FOLDER / "poster.py"


@pytest.fixture(scope="module")
def posters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(
        tmp_path_factory.mktemp("posters"),
        PYTHONPATH=str(FOLDER),
        IMPASTO_SERVER_ENDPOINTS="poster:table",
        IMPASTO_SERVER_DRAIN_SECONDS="1",
    )
    yield running
    assert running.stop() == 0


def test_the_example_has_less_than_thirty_lines_and_its_command_starts_a_server() -> None:
    assert len(SOURCE.read_text().splitlines()) < 30
    help_ = subprocess.run(
        [sys.executable, "-m", "impasto.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "--endpoints" in help_.stdout


def test_fals_client_draws_at_the_users_endpoint(posters: Server, python: Callable[..., Any]) -> None:
    output = python(
        """
        import fal_client
        out(fal_client.subscribe("me/poster", arguments={"prompt": "a rocket", "style": "night", "border": 40}))
        """,
        url=posters.url,
    )
    assert output["prompt"] == "a rocket at night, dark blue background"
    picture = Image.open(BytesIO(httpx.get(output["images"][0]["url"]).content))
    assert picture.size == (768, 1024)
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[:36].min() > 240, "the border is white"
    assert pixels[60:-60, 60:-60].mean() < 240


def test_its_input_is_validated_and_published_as_its_own(posters: Server) -> None:
    answer = httpx.post(f"{posters.url}/me/poster", json={"prompt": "a", "style": "neon"}, timeout=PATIENCE)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "style"]
    document = httpx.get(f"{posters.url}/api/openapi/queue/openapi.json?endpoint_id=me/poster").json()
    schema = document["components"]["schemas"]["PosterInput"]
    assert schema["x-fal-order-properties"] == ["prompt", "style", "border", "seed", "sync_mode"]
