"""Endpoints as users write them, some of them wrong: loaded by name in the server and in its runners."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from impasto.endpoints.custom import ModelError, NumImages, Prompt, Steps, WireInput, derive


class Input(WireInput):
    prompt: Prompt
    num_inference_steps: Steps = 4
    num_images: NumImages = 1
    tone: int = 7


def asks(input_: Input) -> dict[str, Any]:
    return {
        "prompt": f"{input_.prompt}, as a drawing",
        "image_size": {"width": 128, "height": 96},
        "num_inference_steps": input_.num_inference_steps,
        "num_images": input_.num_images,
    }


def tone(pixels: Any, job: Any) -> Any:
    pixels[:] = job.arguments["tone"]
    return pixels[:64, :64]


def breaks(pixels: Any, job: Any) -> Any:
    raise KeyError("a fault of the user's")


def complains(pixels: Any, job: Any) -> Any:
    raise ModelError.at("tone", "This tone does not exist", "value_error")


def wrong(pixels: Any, job: Any) -> Any:
    return pixels.astype("float32")


class Mirrored:
    """Draws over the loaded pipeline: half of the steps, the picture turned round."""

    def __init__(self, base: Any) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def denoise(self, job: Any, conditioning: Any, *, index: int) -> Iterator[Any]:
        yield from self.base.denoise(job, conditioning, index=index)

    def decode(self, job: Any, latents: Any) -> Any:
        return self.base.decode(job, latents)[::-1]


class Slow(Mirrored):
    def denoise(self, job: Any, conditioning: Any, *, index: int) -> Iterator[Any]:
        for step in self.base.denoise(job, conditioning, index=index):
            time.sleep(0.05)
            yield step


class Crashing(Mirrored):
    """Takes its process with it at the second step, as a fault in native code does; a prompt with "well" is drawn."""

    def denoise(self, job: Any, conditioning: Any, *, index: int) -> Iterator[Any]:
        for step in self.base.denoise(job, conditioning, index=index):
            yield step
            if "well" not in job.prompt:
                os.kill(os.getpid(), signal.SIGKILL)


def _own(name: str, **more: Any) -> Any:
    return derive(f"me/{name}", Input=Input, asks=asks, example={"prompt": "a heron"}, **more)


def stretched(job: Any) -> Any:
    return replace(job, width=64.5)


class PictureInput(Input):
    image_url: str = "https://pictures.example/heron.png"


def asks_with_picture(input_: PictureInput) -> dict[str, Any]:
    return {"prompt": input_.prompt, "image_url": input_.image_url}


of_a_picture = derive(
    "me/stretched",
    Input=PictureInput,
    asks=asks_with_picture,
    base="fal-ai/flux/dev/image-to-image",
    example={"prompt": "a heron"},
)

table = [
    replace(of_a_picture, with_pictures=stretched),
    _own("plain"),
    _own("tone", post=tone),
    _own("mirrored", pipeline=Mirrored),
    _own("slow", pipeline=Slow),
    _own("crashes", pipeline=Crashing),
    _own("crashes-too", pipeline=Crashing),
    _own("breaks", post=breaks),
    _own("complains", post=complains),
    _own("wrong", post=wrong),
    _own("odd-answer", answer=lambda input_, output: output["nothing"]),
]
