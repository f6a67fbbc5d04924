"""fal's Python client, unmodified, as its users write."""

import base64
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

Program = Callable[..., Any]
PROMPT = "a lighthouse at night"
# Four of the largest pictures: the queue has something to do for a moment, so the states can be seen.
BIG = {"prompt": PROMPT, "num_images": 4, "image_size": {"width": 2048, "height": 2048}, "num_inference_steps": 50}


def test_run_draws_what_is_asked(python: Program, picture: Program, check_output: Program) -> None:
    output = python(
        f"""
        import fal_client
        out(fal_client.run("fal-ai/flux-pro", arguments={{
            "prompt": {PROMPT!r}, "image_size": {{"width": 640, "height": 480}}, "num_images": 2, "seed": 7,
            "output_format": "png"}}))
        """
    )
    check_output(output, prompt=PROMPT, count=2)
    assert output["seed"] == 7
    first, second = (picture(image) for image in output["images"])
    assert first.size == second.size == (640, 480)
    assert first.format == "PNG"
    assert first.tobytes() != second.tobytes()


def test_submit_then_events_with_logs_then_result(python: Program, picture: Program, check_output: Program) -> None:
    said = python(
        f"""
        import fal_client
        handle = fal_client.submit("fal-ai/flux-pro", arguments={BIG!r})
        events = [[type(event).__name__, event] for event in handle.iter_events(with_logs=True)]
        out({{"id": handle.request_id, "urls": [handle.response_url, handle.status_url, handle.cancel_url],
             "events": events, "output": handle.get()}})
        """
    )
    base, status, cancel = said["urls"]
    assert base == f"https://queue.fal.run/fal-ai/flux-pro/requests/{said['id']}"  # as get_handle forms it
    assert (status, cancel) == (f"{base}/status", f"{base}/cancel")
    names = [name for name, _ in said["events"]]
    assert "InProgress" in names
    assert names == sorted(names, key=["Queued", "InProgress", "Completed"].index)
    assert names.count("Completed") == 1
    assert all(
        type(event["position"]) is int and event["position"] >= 0 for name, event in said["events"] if name == "Queued"
    )
    last = said["events"][-1][1]
    assert last["metrics"]["inference_time"] > 0
    assert (last["error"], last["error_type"]) == (None, None)
    messages = [log["message"] for log in last["logs"]]
    assert "image 4/4: step 50/50" in messages
    for log in last["logs"]:
        assert set(log) == {"timestamp", "message", "level", "source", "labels"}
    seen = [[log["message"] for log in event["logs"]] for name, event in said["events"] if name != "Queued"]
    assert all(longer[: len(shorter)] == shorter for shorter, longer in pairwise(seen))
    check_output(said["output"], prompt=PROMPT, count=4)
    assert picture(said["output"]["images"][3]).size == (2048, 2048)


def test_status_result_and_position_by_id(python: Program, check_output: Program) -> None:
    said = python(
        f"""
        import fal_client
        app = "fal-ai/flux-pro"
        busy = [fal_client.submit(app, arguments={BIG!r} | {{"num_images": 2}}) for _ in range(3)]
        handle = fal_client.submit(app, arguments={{"prompt": {PROMPT!r}, "image_size": "square"}})
        first = fal_client.status(app, handle.request_id)
        output = fal_client.result(app, handle.request_id)
        last = fal_client.status(app, handle.request_id, with_logs=False)
        for other in busy: list(other.iter_events())
        out({{"first": [type(first).__name__, first], "output": output, "last": [type(last).__name__, last]}})
        """
    )
    name, first = said["first"]
    assert name == "Queued"
    assert type(first["position"]) is int
    assert first["position"] >= 1
    check_output(said["output"], prompt=PROMPT)
    name, last = said["last"]
    assert name == "Completed"
    assert last["logs"] is None


def test_cancel_ends_a_waiting_request_with_499(python: Program) -> None:
    said = python(
        f"""
        import fal_client
        app = "fal-ai/flux-pro"
        busy = [fal_client.submit(app, arguments={BIG!r}) for _ in range(3)]
        handle = fal_client.submit(app, arguments={{"prompt": "x"}})
        handle.cancel()
        last = [event for event in handle.iter_events()][-1]
        try:
            handle.get()
        except fal_client.FalClientHTTPError as error:
            failed = [error.status_code, error.error_type, error.message]
        try:
            handle.cancel()
        except fal_client.FalClientHTTPError as error:
            again = [error.status_code, error.response.json()]
        for other in busy: fal_client.cancel(app, other.request_id)
        results = []
        for other in busy:
            try:
                results.append(len(other.get()["images"]))
            except fal_client.FalClientHTTPError as error:
                results.append(error.status_code)
        out({{"last": last, "failed": failed, "again": again, "results": results}})
        """
    )
    assert said["last"]["error_type"] == "client_cancelled"
    assert said["failed"][:2] == [499, "client_cancelled"]
    assert said["again"] == [400, {"status": "ALREADY_COMPLETED"}]
    assert set(said["results"]) <= {4, 499}  # a running one may still complete


def test_subscribe_tells_every_update(python: Program, check_output: Program) -> None:
    said = python(
        f"""
        import fal_client
        updates, ids = [], []
        output = fal_client.subscribe("fal-ai/flux-pro", arguments={BIG!r}, with_logs=True,
            on_enqueue=ids.append, on_queue_update=lambda update: updates.append([type(update).__name__, update]))
        out({{"ids": ids, "updates": updates, "output": output}})
        """
    )
    assert len(said["ids"]) == 1
    assert len(said["ids"][0]) == 36
    names = [name for name, _ in said["updates"]]
    assert "InProgress" in names
    assert names[-1] == "Completed"
    assert said["updates"][-1][1]["logs"]
    check_output(said["output"], prompt=PROMPT, count=4)


def test_async_calls(python: Program, check_output: Program, picture: Program) -> None:
    said = python(
        f"""
        import asyncio, fal_client
        app, small = "fal-ai/flux-pro", {{"prompt": {PROMPT!r}, "image_size": "square"}}
        async def main():
            run, subscribed = await asyncio.gather(
                fal_client.run_async(app, arguments=small), fal_client.subscribe_async(app, arguments=small))
            handle = await fal_client.submit_async(app, arguments=small)
            events = [type(event).__name__ async for event in handle.iter_events(with_logs=True)]
            url = await fal_client.upload_async(b"from async", "text/plain")
            return {{"outputs": [run, subscribed, await handle.get()], "events": events, "url": url}}
        out(asyncio.run(main()))
        """
    )
    for output in said["outputs"]:
        check_output(output, prompt=PROMPT)
    assert said["events"][-1] == "Completed"
    assert picture(said["outputs"][2]["images"][0]).size == (512, 512)
    assert httpx.get(said["url"]).text == "from async"


def test_uploads(python: Program, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("kept in a file")
    said = python(
        f"""
        import fal_client
        from PIL import Image
        out({{"bytes": fal_client.upload(b"plain bytes", "text/plain"), "file": fal_client.upload_file({str(file)!r}),
             "image": fal_client.upload_image(Image.new("RGB", (40, 30), (200, 10, 10)))}})
        """
    )
    answer = httpx.get(said["bytes"])
    assert (answer.text, answer.headers["content-type"].partition(";")[0]) == ("plain bytes", "text/plain")
    assert httpx.get(said["file"]).text == "kept in a file"
    answer = httpx.get(said["image"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(BytesIO(answer.content)).size == (40, 30)


def test_sync_mode_puts_the_picture_into_the_answer(python: Program) -> None:
    output = python(
        f"""
        import fal_client
        small = {{"prompt": {PROMPT!r}, "image_size": "square"}}
        out(fal_client.run("fal-ai/flux-pro", arguments=small | {{"sync_mode": True}}))
        """
    )
    head, _, data = output["images"][0]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(BytesIO(base64.b64decode(data))).size == (512, 512)


def test_bad_input_is_accepted_and_422_at_the_result(python: Program) -> None:
    said = python(
        """
        import fal_client
        handle = fal_client.submit("fal-ai/flux-pro", arguments={"prompt": "x", "num_images": 99, "image_size": "huge"})
        last = [event for event in handle.iter_events()][-1]
        try:
            handle.get()
        except fal_client.FalClientHTTPError as error:
            out({"last": last, "status": error.status_code, "message": error.message})
        """
    )
    assert said["last"]["error"]
    assert said["status"] == 422
    where = {item["loc"][1]: item for item in said["message"]}
    assert set(where) == {"num_images", "image_size"}
    assert all(isinstance(part, str) for item in said["message"] for part in item["loc"])
    assert where["num_images"]["type"] == "less_than_equal"
    assert where["num_images"]["ctx"] == {"le": 4}


def test_missing_prompt_is_422_at_the_run(python: Program) -> None:
    said = python(
        """
        import fal_client
        try:
            fal_client.run("fal-ai/flux-pro", arguments={})
        except fal_client.FalClientHTTPError as error:
            out([error.status_code, error.message])
        """
    )
    assert said[0] == 422
    assert [(item["loc"], item["type"]) for item in said[1]] == [(["body", "prompt"], "missing")]


def test_unknown_things_are_404(python: Program) -> None:
    said = python(
        """
        import fal_client
        answers = []
        unknown = "764cabcf-b745-4b3e-ae38-1200304cf45b"
        for call in (lambda: fal_client.run("fal-ai/no-such-app", arguments={}),
                     lambda: fal_client.status("fal-ai/flux-pro", unknown),
                     lambda: fal_client.cancel("fal-ai/flux-pro", unknown)):
            try:
                call()
            except fal_client.FalClientHTTPError as error:
                answers.append([error.status_code, error.response.json()])
        out(answers)
        """
    )
    application, status, cancel = said
    assert application[0] == 404
    assert application[1]["detail"] == 'Application "no-such-app" not found'
    assert status == [404, {"status": "NOT_FOUND"}]
    assert cancel == [404, {"status": "NOT_FOUND"}]


def test_keys_are_judged(python: Program, locked_server: tuple[Any, str], check_output: Program) -> None:
    server, key = locked_server
    source = f"""
        import fal_client
        try:
            out(fal_client.run("fal-ai/flux-pro", arguments={{"prompt": {PROMPT!r}}}))
        except fal_client.FalClientHTTPError as error:
            out([error.status_code, error.message])
        """
    check_output(python(source, url=server.url, variables={"FAL_KEY": key}), prompt=PROMPT)
    assert python(source, url=server.url) == [401, "No user found for Key ID and Secret"]
    malformed = python(source, url=server.url, variables={"FAL_KEY": "nonsense"})
    assert malformed == [401, "Invalid Key Authorization header format. Expected '<key_id>:<key_secret>'."]


@pytest.mark.parametrize("version", ["0.5.9", "0.10.0"])
def test_older_versions(python: Program, check_output: Program, version: str) -> None:
    said = python(
        f"""
        import asyncio, fal_client, importlib.metadata
        app, small = "fal-ai/flux-pro", {{"prompt": {PROMPT!r}, "image_size": "square"}}
        handle = fal_client.submit(app, arguments=small)
        events = [type(event).__name__ for event in handle.iter_events(with_logs=True)]
        out({{"version": importlib.metadata.version("fal_client"), "events": events,
             "url": fal_client.upload(b"hello", "text/plain"),
             "outputs": [handle.get(), fal_client.run(app, arguments=small), fal_client.subscribe(app, arguments=small),
                         asyncio.run(fal_client.subscribe_async(app, arguments=small))]}})
        """,
        client=version,
    )
    assert said["version"] == version
    assert said["events"][-1] == "Completed"
    assert httpx.get(said["url"]).text == "hello"
    assert len(said["outputs"]) == 4
    for output in said["outputs"]:
        check_output(output, prompt=PROMPT)


def test_method_connect_keeps_fals_names(python: Program, check_output: Program) -> None:
    """What fal's own test of its client asks: the handle's URLs are those of queue.fal.run, to the letter."""
    said = python(
        f"""
        import fal_client, httpx
        handle = fal_client.submit("fal-ai/flux-pro", arguments={{"prompt": {PROMPT!r}, "image_size": "square"}})
        output = handle.get()
        url = fal_client.upload(b"hello", "text/plain")
        urls = [handle.response_url, handle.status_url, handle.cancel_url]
        image = httpx.get(output["images"][0]["url"]).content[:3].hex()
        out({{"id": handle.request_id, "urls": urls, "output": output, "image": image, "url": url,
             "text": httpx.get(url).text}})
        """,
        method="connect",
    )
    base = f"https://queue.fal.run/fal-ai/flux-pro/requests/{said['id']}"
    assert said["urls"] == [base, f"{base}/status", f"{base}/cancel"]
    check_output(said["output"], prompt=PROMPT)
    assert said["output"]["images"][0]["url"].startswith("https://v3.fal.media/files/")
    assert said["image"] == "ffd8ff"
    assert said["url"].startswith("https://v3.fal.media/files/")
    assert said["text"] == "hello"
