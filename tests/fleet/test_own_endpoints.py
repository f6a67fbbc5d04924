"""Users' endpoints: their code runs in the runner, its faults end one request, its mistakes are named at the start."""

import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from impasto.endpoints.base import WantedLora
from impasto.endpoints.custom import derive
from impasto.endpoints.own import load_endpoints
from impasto.errors import ConfigError
from impasto.files.images import data_uri, encode

from .conftest import House, make_settings, open_house
from .own_table import Input

HERE = Path(__file__).parent
PIXEL = data_uri(encode(np.zeros((64, 64, 3), np.uint8), "png")[0], "image/png")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody starts the server who has the modules in the current folder."""
    monkeypatch.chdir(HERE)


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[House]:
    settings = make_settings(tmp_path)
    settings = settings.model_copy(
        update={"server": settings.server.model_copy(update={"endpoints": ("own_table:table",)})}
    )
    async with open_house(settings, endpoints=load_endpoints(settings.server.endpoints)) as house:
        await house.until_ready()
        yield house


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


async def test_a_template_asks_a_shipped_endpoint(own: House) -> None:
    _, result = await own.ended(await own.submit("a heron", endpoint="me/plain"))
    assert result.http_status == 200
    assert result.payload["prompt"] == "a heron, as a drawing"
    assert pixels(own.file_bytes(result)[0]).shape == (96, 128, 3)


def test_what_a_template_asks_of_pictures_and_loras_is_fetched() -> None:
    asks = {
        "prompt": "a heron",
        "image_url": "https://pictures.example/heron.png",
        "loras": [{"path": "https://styles.example/ink.safetensors", "scale": 0.5}],
    }
    base = "fal-ai/flux-lora/image-to-image"
    styled = derive("me/styled", Input=Input, asks=lambda _: asks, base=base, example={"prompt": "a heron"})
    assert styled.loras is not None
    assert styled.pictures is not None
    given = Input(prompt="a heron")
    assert styled.loras(given) == (WantedLora(path="https://styles.example/ink.safetensors", scale=0.5),)
    assert [wanted.url for wanted in styled.pictures(given)] == ["https://pictures.example/heron.png"]


async def test_code_over_the_pictures_and_over_the_pipeline_runs_in_the_runner(own: House) -> None:
    _, plain = await own.ended(await own.submit("a heron", endpoint="me/plain"))
    _, toned = await own.ended(await own.submit("a heron", endpoint="me/tone", tone=99, num_images=2))
    _, mirrored = await own.ended(await own.submit("a heron", endpoint="me/mirrored"))
    for data in own.file_bytes(toned):
        assert pixels(data).shape == (64, 64, 3)
        assert abs(int(pixels(data).mean()) - 99) <= 1
    assert [(image["width"], image["height"]) for image in toned.payload["images"]] == [(64, 64)] * 2
    before, after = (pixels(own.file_bytes(result)[0]).astype(int) for result in (plain, mirrored))
    assert np.abs(before[::-1] - after).mean() < 3 < np.abs(before - after).mean()


async def test_faults_of_users_end_their_request_in_fals_shape_and_nothing_else(own: House) -> None:
    ids = [await own.submit(endpoint=f"me/{name}") for name in ("breaks", "wrong", "odd-answer", "complains", "plain")]
    breaks, wrong, odd, complains, plain = [(await own.ended(id_)) for id_ in ids]
    assert [result.http_status for _, result in (breaks, wrong, odd, complains, plain)] == [500, 500, 500, 422, 200]
    assert breaks[1].payload["detail"][0]["type"] == "internal_server_error"
    assert "KeyError" in breaks[1].payload["detail"][0]["msg"]
    assert "a fault of the user's" not in str(breaks[1].payload), "what it says belongs to the log"
    assert complains[1].payload["detail"][0]["loc"] == ["body", "tone"]
    assert [request.attempt for request, _ in (breaks, wrong, odd, complains)] == [1] * 4


async def test_arguments_that_no_runner_can_be_sent_end_their_request_and_keep_no_slot(own: House) -> None:
    for _ in range(own.settings.queue.slots + 1):
        request, result = await own.ended(await own.submit(endpoint="me/tone", tone=10**30))
        assert (result.http_status, request.attempt, request.error_type) == (500, 1, "internal_error")
    request, result = await own.ended(await own.submit(endpoint="me/stretched", image_url=PIXEL))
    assert (result.http_status, request.attempt, request.error_type) == (500, 1, "internal_error")
    await own.until(lambda: not own.dispatcher.runners[0].busy)
    _, result = await own.ended(await own.submit("a heron", endpoint="me/plain"))
    assert result.http_status == 200


async def test_a_cancel_stops_users_code_between_two_steps(own: House) -> None:
    request_id = await own.submit(endpoint="me/slow", num_inference_steps=50)
    await own.until_drawing(request_id, step=2)
    await own.store.cancel(request_id)
    request, result = await own.ended(request_id)
    assert (request.outcome, result.http_status) == ("CANCELLED", 499)
    steps = [line for line in own.messages(request_id) if line.startswith("step ")]
    assert len(steps) < 10, "it did not run to its end"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_table", "is not understood. Name it as module:attribute"),
        ("no_such_module:table", "module no_such_module cannot be loaded .*Install it or start in its folder"),
        ("own_table:tables", r"module own_table \(.*own_table.py\) has no tables. It has: .*table"),
        ("own_table:asks", "is function, not an Endpoint or a list of them"),
        ("impasto.endpoints.flux_pro:FLUX_PRO", "two endpoints have the id 'fal-ai/flux-pro'. Give yours another one"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_the_remedy(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_endpoints([name])


MODULE = """
from impasto.endpoints.custom import Prompt, WireInput, derive
{head}
class Input(WireInput):
    prompt: Prompt
table = derive("{id}", Input=Input, asks=lambda x: {{"prompt": x.prompt}}, example={example}, base="{base}")
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "Mine"}, "'Mine' cannot be an endpoint id. Use owner/name"),
        ({"id": "v1/models"}, "'v1/models' cannot be an endpoint id"),
        ({"id": "me/requests/x"}, "cannot be an endpoint id"),
        ({"example": "{}"}, "the example of me/mine is not a valid input: body.prompt"),
        ({"base": "fal-ai/flux-2"}, "base 'fal-ai/flux-2' is not a shipped endpoint. Known: fal-ai/flux-pro"),
        ({"head": "1 / 0"}, "module mine cannot be loaded .ZeroDivisionError"),
        ({"head": "import torch"}, "imports torch, which the server process must not load"),
    ],
)
def test_a_start_with_a_faulty_module_ends_with_one_line(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    import re

    values = {"id": "me/mine", "example": '{"prompt": "x"}', "base": "fal-ai/flux-pro", "head": ""} | changes
    (tmp_path / "mine.py").write_text(MODULE.format(**values))
    ended = subprocess.run(
        [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", "d", "--endpoints", "mine:table"],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if not k.startswith("IMPASTO_")} | {"IMPASTO_MODEL_PIPELINE": "fake"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended
    assert re.search(message, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_with_endpoints_of_its_own_stays_without_torch_and_numpy() -> None:
    code = (
        "import sys, impasto.serve, impasto.endpoints.own as own; own.load_endpoints(['own_table:table']);"
        "print([name for name in ('torch', 'numpy', 'transformers') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
