"""me/poster: three styles, one size, a border. `impasto serve --endpoints poster:table`, started in this folder."""

from typing import Literal

from impasto.endpoints.custom import Prompt, Seed, SyncMode, WireInput, derive

STYLES = {"ink": "{}, black ink drawing on white paper", "night": "{} at night, dark blue background"}


class PosterInput(WireInput):
    prompt: Prompt
    style: Literal["ink", "night"] = "ink"
    border: int = 16
    seed: Seed = None
    sync_mode: SyncMode = False


def asks(poster):  # → an input of fal-ai/flux-pro
    return {"prompt": STYLES[poster.style].format(poster.prompt), "image_size": "portrait_4_3"}


def frame(pixels, job):  # in the runner, once a picture; job.arguments is the input
    width = job.arguments["border"]
    pixels[:width] = pixels[-width:] = pixels[:, :width] = pixels[:, -width:] = 255
    return pixels


table = [derive("me/poster", Input=PosterInput, asks=asks, post=frame, example={"prompt": "a red apple"})]
