"""Realtime as fal's clients do it: token, socket, MessagePack, errors; Python sync and async, JavaScript."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Program = Callable[..., Any]
INPUT = {"prompt": "a lighthouse", "image_size": {"width": 64, "height": 64}, "seed": 7}


@pytest.mark.parametrize("use_jwt", [True, False])
def test_python_draws_and_sees_errors(python: Program, use_jwt: bool) -> None:
    said = python(
        f"""
        import fal_client
        with fal_client.SyncClient(key="a:b").realtime("fal-ai/flux-pro", use_jwt={use_jwt}, max_buffering=5) as socket:
            socket.send({INPUT!r})
            first = socket.recv()
            image = first["images"][0]
            socket.send({{"num_images": 0}})
            try:
                socket.recv()
            except fal_client.client.RealtimeError as error:
                failure = [error.error, error.reason, error.payload["detail"]]
            socket.send({INPUT!r})
            out({{"seed": first["seed"], "head": image.pop("content")[:3].hex(), "image": image, "failure": failure,
                 "again": socket.recv()["seed"]}})
        """
    )
    assert said["head"] == "ffd8ff"
    assert said["image"] == {"content_type": "image/jpeg", "width": 64, "height": 64}
    assert said["seed"] == said["again"] == 7
    assert said["failure"][0] == "VALIDATION_ERROR"
    assert said["failure"][2][0]["loc"] == ["body", "prompt"]


@pytest.mark.parametrize("use_jwt", [True, False])
def test_async_python_draws(python: Program, use_jwt: bool) -> None:
    said = python(
        f"""
        import asyncio, fal_client
        async def main():
            client = fal_client.AsyncClient(key="a:b")
            async with client.realtime("fal-ai/flux-pro", use_jwt={use_jwt}) as socket:
                await socket.send({INPUT!r})
                return (await socket.recv())["images"][0]["content"][:3].hex()
        out(asyncio.run(main()))
        """
    )
    assert said == "ffd8ff"


def test_javascript_draws_and_sees_errors(node: Program) -> None:
    said = node(
        """
        fal.config({ credentials: "a:b" });
        const said = {};
        await new Promise((resolve) => {
          const connection = fal.realtime.connect("fal-ai/flux-pro", {
            throttleInterval: 0,
            onResult: (result) => {
              const { content, ...image } = result.images[0];
              Object.assign(said, { head: [...content.slice(0, 3)], image, seed: result.seed });
              connection.send({ num_images: 0 });
            },
            onError: (error) => {
              said.error = [error.message, error.body];
              connection.close();
              resolve();
            },
          });
          connection.send(INPUT);
        });
        out(said);
        """.replace("INPUT", json.dumps(INPUT)),
        variables={"NODE_OPTIONS": "--experimental-websocket"},  # Node.js 22 needs no flag
    )
    assert said["head"] == [0xFF, 0xD8, 0xFF], said
    assert said["image"] == {"content_type": "image/jpeg", "width": 64, "height": 64}
    assert said["error"][1]["detail"][0]["loc"] == ["body", "prompt"]
