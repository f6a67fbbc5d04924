"""Endpoints that take a picture, with fal's own clients: uploaded, inline, and refused where it is private."""

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

Program = Callable[..., Any]


def test_an_upload_goes_into_image_to_image_and_redux(python: Program) -> None:
    said = python(
        """
        import fal_client
        from PIL import Image
        url = fal_client.upload_image(Image.new("RGB", (400, 300), (200, 10, 10)))
        inline = fal_client.encode_image(Image.new("RGB", (64, 64)), format="png")
        asked = {
            "fal-ai/flux/dev/image-to-image": {"prompt": "a cat", "image_url": url},
            "fal-ai/flux/dev/redux": {"image_url": url, "image_size": "square"},
            "fal-ai/flux/schnell/redux": {"image_url": inline, "image_size": "square"},
            "fal-ai/flux-pro/v1/redux": {"image_url": url, "image_size": "square"},
            "fal-ai/flux-pro/v1.1/redux": {"image_url": inline, "image_size": "square", "prompt": "x"},
            "fal-ai/flux-pro/v1.1-ultra/redux": {"image_url": url, "aspect_ratio": "1:1"},
        }
        out({id_: fal_client.subscribe(id_, arguments=input_) for id_, input_ in asked.items()})
        """
    )
    sizes = {id_: (o["images"][0]["width"], o["images"][0]["height"]) for id_, o in said.items()}
    assert sizes["fal-ai/flux/dev/image-to-image"] == (400, 304)  # the picture's own, in sixteens
    assert sizes["fal-ai/flux-pro/v1.1-ultra/redux"] == (2048, 2048)
    assert sizes["fal-ai/flux/dev/redux"] == (512, 512)
    assert said["fal-ai/flux/dev/redux"]["prompt"] == ""


def test_javascript_uploads_the_file_in_the_input(node: Program) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 10, 10)).save(buffer, "PNG")
    said = node(
        f"""
        const png = Buffer.from({buffer.getvalue().hex()!r}, "hex");
        const app = "fal-ai/flux/dev/redux", image_url = new File([png], "a.png", {{ type: "image/png" }});
        const one = await fal.subscribe(app, {{ input: {{ image_url }}, pollInterval: 50 }});
        const input = {{ image_url: "http://10.0.0.1/a.png" }};
        const local = await fal.run(app, {{ input }}).catch((error) => error.body);
        out({{ one: one.data, local }});
        """
    )
    assert len(said["one"]["images"]) == 1
    (item,) = said["local"]["detail"]
    assert (item["loc"], item["type"]) == (["body", "image_url"], "file_download_error")
