"""A request's way through dispatcher, runner and engine, and every way it can end."""

import asyncio
import base64
import hashlib
import io
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from impasto.endpoints.table import Endpoints
from impasto.engine.senses import senses_of
from impasto.errors import StoreError
from impasto.files.images import data_uri
from impasto.fleet.inputs import Inputs
from impasto.flux.models import FLUX1_FILL, IMPASTO_MINI
from impasto.store.records import Outcome, Status

from .conftest import BASE_URL, House, make_settings, open_house


async def test_a_request_becomes_files_a_result_and_logs(house: House) -> None:
    request_id = await house.submit(num_images=2, num_inference_steps=10)
    request, result = await house.ended(request_id)
    assert (request.outcome, request.http_status, request.attempt) == (Outcome.OK, 200, 1)
    assert list(result.payload) == ["images", "timings", "seed", "has_nsfw_concepts", "prompt"]
    assert result.payload["seed"] == 7
    assert result.payload["has_nsfw_concepts"] == [False, False]
    assert [image["url"].startswith(f"{BASE_URL}/files/") for image in result.payload["images"]] == [True, True]
    assert all(data.startswith(b"\xff\xd8\xff") for data in house.file_bytes(result))
    assert request.inference_time == result.payload["timings"]["inference"]
    messages = house.messages(request_id)
    assert messages[0] == "Drawing 2 images of 128x96 in 10 steps, seed 7"
    assert "image 2/2: step 10/10" in messages
    assert messages[-1].startswith("Done in")
    assert house.dispatcher.progress(request_id) is None, "progress is forgotten with the work"
    assert house.dispatcher.runners[0].busy == 0


async def test_a_seed_comes_back_as_it_was_sent_and_is_reduced_for_the_noise_only(house: House) -> None:
    sums: dict[int, list[str]] = {}
    for seed in (-1, 2**64 - 1, 2**65 - 1, 2**64 + 5, 5):
        request_id = await house.submit(seed=seed)
        _, result = await house.ended(request_id)
        assert result.payload["seed"] == seed
        assert house.messages(request_id)[0].endswith(f"seed {seed}")
        sums[seed] = house.sums(result)
    assert sums[-1] == sums[2**64 - 1] == sums[2**65 - 1] != sums[5]
    assert sums[5] == sums[2**64 + 5]


async def test_sync_mode_answers_inside_the_result_and_makes_no_file(house: House) -> None:
    request_id = await house.submit(sync_mode=True, output_format="png")
    _, result = await house.ended(request_id)
    head, _, body = result.payload["images"][0]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body).startswith(b"\x89PNG")
    assert house.blobs_on_disk() == 0


async def test_the_picture_inside_is_the_picture_of_the_file(house: House) -> None:
    inline = await house.submit(sync_mode=True)
    filed = await house.submit()
    (_, first), (_, second) = await house.ended(inline), await house.ended(filed)
    data = base64.b64decode(first.payload["images"][0]["url"].partition(",")[2])
    assert [hashlib.sha256(data).hexdigest()] == house.sums(second)


async def test_a_refused_input_is_a_422_with_the_list_of_faults(house: House) -> None:
    request_id = await house.submit(num_images=9, guidance_scale="much")
    request, result = await house.ended(request_id)
    assert (request.outcome, request.http_status, request.error_type) == (Outcome.ERROR, 422, "float_parsing")
    assert result.http_status == 422
    assert {tuple(item["loc"]) for item in result.payload["detail"]} == {
        ("body", "num_images"),
        ("body", "guidance_scale"),
    }
    assert result.headers["X-Fal-Billable-Units"] == "0"
    assert request.error
    assert "less than or equal to 4" in request.error
    assert house.dispatcher.runners[0].busy == 0


async def test_pictures_that_take_longer_than_a_lease_are_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: asyncio.Queue[float] = asyncio.Queue()
    read_all = Inputs.read_all

    async def slow(self: Inputs, *wanted: Any, **who: Any) -> Any:
        reads.put_nowait(time.monotonic())
        await asyncio.sleep(3.0)
        return await read_all(self, *wanted, **who)

    monkeypatch.setattr(Inputs, "read_all", slow)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(buffer, "PNG")
    async with open_house(make_settings(tmp_path, lease_seconds=1.0)) as house:
        await house.until_ready()
        given = {"image_url": data_uri(buffer.getvalue(), "image/png"), "image_size": None}
        request, result = await house.ended(await house.submit(endpoint="fal-ai/flux/dev/image-to-image", **given))
        assert (result.http_status, request.attempt, reads.qsize()) == (200, 1, 1)
        await reads.get()
        request_id = await house.submit(endpoint="fal-ai/flux/dev/image-to-image", **given)
        await asyncio.wait_for(reads.get(), timeout=10)
        await house.store.cancel(request_id)
        request, result = await house.ended(request_id)
        assert (result.http_status, request.outcome) == (499, Outcome.CANCELLED)
        await house.until(lambda: house.dispatcher.runners[0].busy == 0)


async def test_a_refused_input_does_not_hold_up_the_next_one(house: House) -> None:
    bad = [await house.submit(num_images=0) for _ in range(5)]
    good = await house.submit()
    assert (await house.ended(good))[0].outcome is Outcome.OK
    assert [(await house.ended(request_id))[0].http_status for request_id in bad] == [422] * 5


async def test_a_request_that_cannot_be_ended_does_not_take_the_rest_of_its_claim_with_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, refusals = house.store.finish, 0

    async def full(*args: Any, **ending: Any) -> bool:
        nonlocal refusals
        refusals += 1
        if refusals == 1:
            raise StoreError("database or disk is full")
        return await finish(*args, **ending)

    monkeypatch.setattr(house.store, "finish", full)
    async with house.dispatcher._claiming:  # so that one claim gets both
        bad = await house.submit(num_images=99)
        good = await house.submit(no_retry=True)
    request, _ = await house.ended(good)
    assert (request.outcome, request.attempt) == (Outcome.OK, 1)
    assert (await house.ended(bad))[0].http_status == 422, "when its lease has run out"


async def test_a_fault_in_an_endpoint_ends_its_request_and_nothing_else(tmp_path: Path) -> None:
    import dataclasses

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    table = dict(Endpoints())
    table["fal-ai/no-job"] = dataclasses.replace(table["fal-ai/flux-pro"], id="fal-ai/no-job", to_job=broken)  # type: ignore[arg-type]
    table["fal-ai/no-output"] = dataclasses.replace(table["fal-ai/flux-pro"], id="fal-ai/no-output", to_output=broken)  # type: ignore[arg-type]

    def nan(*_: object) -> dict[str, object]:
        return {"images": [], "score": float("nan")}

    table["fal-ai/no-json"] = dataclasses.replace(table["fal-ai/flux-pro"], id="fal-ai/no-json", to_output=nan)
    for asks in ("pictures", "loras"):
        id_ = f"fal-ai/no-{asks}"
        table[id_] = dataclasses.replace(table["fal-ai/flux-pro"], id=id_, **{asks: broken})  # type: ignore[arg-type]
    async with open_house(make_settings(tmp_path), endpoints=table) as house:
        await house.until_ready()
        for asks in ("pictures", "loras"):
            for _ in range(house.settings.queue.slots + 1):  # and none of them keeps its slot
                request, result = await house.ended(await house.submit(endpoint=f"fal-ai/no-{asks}"))
                assert (result.http_status, request.attempt) == (500, 1)
        no_job = await house.submit(endpoint="fal-ai/no-job")
        no_output = await house.submit(endpoint="fal-ai/no-output")
        good = await house.submit()
        assert (await house.ended(no_job))[0].http_status == 500
        assert (await house.ended(good))[0].http_status == 200
        assert (await house.ended(no_output))[0].http_status == 500
        request, _ = await house.ended(await house.submit(endpoint="fal-ai/no-json"))
        assert (request.http_status, request.attempt) == (500, 1), "another attempt would say the same"
        assert house.blobs_on_disk() == 1, "the pictures of the failed one are deleted"


async def test_a_cancel_reaches_a_running_picture_at_once(tmp_path: Path) -> None:
    async with open_house(
        make_settings(tmp_path, beat_seconds=3600.0, lease_seconds=3600.0), step_seconds=0.1
    ) as house:
        await house.until_ready()
        request_id = await house.submit(num_inference_steps=50)
        await house.until_drawing(request_id, step=3)
        await house.store.cancel(request_id)
        request, result = await house.ended(request_id)
        assert (request.outcome, request.http_status, request.error_type) == (
            Outcome.CANCELLED, 499, "client_cancelled",
        )  # fmt: skip
        assert result.payload["detail"] == "Request cancelled by the client."
        # Beats are an hour apart: the doorbell told the runner. That it is one step at most, tests/engine judges.
        assert "step 50/50" not in house.messages(request_id)
        after = await house.submit(num_inference_steps=1)
        assert (await house.ended(after))[0].outcome is Outcome.OK


async def test_two_requests_share_the_engine_and_the_short_one_passes_the_long_one(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path), step_seconds=0.05) as house:
        await house.until_ready()
        long = await house.submit("long", num_inference_steps=50)
        await house.until_drawing(long, step=2)
        short = await house.submit("short", num_inference_steps=5)
        assert (await house.ended(short))[0].outcome is Outcome.OK
        assert house.request(long).status == "IN_PROGRESS"
        assert (await house.ended(long))[0].outcome is Outcome.OK


async def test_a_full_runner_is_given_no_more_than_its_slots(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path, slots=2), step_seconds=0.05) as house:
        await house.until_ready()
        ids = [await house.submit(str(number), num_inference_steps=10) for number in range(5)]
        most = 0
        while any(house.request(request_id).status != "COMPLETED" for request_id in ids):
            most = max(most, sum(house.request(request_id).status == "IN_PROGRESS" for request_id in ids))
            await asyncio.sleep(0.01)
        assert most == 2
        assert {house.request(request_id).outcome for request_id in ids} == {Outcome.OK}


async def test_a_result_carries_the_number_of_its_images_as_billable_units(house: House) -> None:
    for count in (1, 3):
        request_id = await house.submit(num_images=count)
        _, result = await house.ended(request_id)
        assert result.headers["X-Fal-Billable-Units"] == str(count)


async def test_two_runners_share_the_queue(tmp_path: Path) -> None:
    async with open_house(make_settings(tmp_path, slots=1), runners=2, step_seconds=0.05) as house:
        await house.until(lambda: len(house.dispatcher.runners) == 2)
        ids = [await house.submit(str(number), num_inference_steps=5) for number in range(4)]
        requests = [(await house.ended(request_id))[0] for request_id in ids]
        assert {request.runner_id for request in requests} == {runner.runner_id for runner in house.dispatcher.runners}


async def test_a_loaded_model_serves_only_what_the_map_gives_it(tmp_path: Path) -> None:
    mapped = {"flux-pro": "impasto-mini", "flux-pro-1.1": "another-model"}
    settings = make_settings(tmp_path)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"serve": mapped})})
    async with open_house(settings) as house:
        await house.until_ready()
        not_here = await house.submit(endpoint="fal-ai/flux-pro/v1.1")
        here = await house.submit()
        assert (await house.ended(here))[0].outcome is Outcome.OK
        assert house.request(not_here).status == "IN_QUEUE"
        served = {id_: house.dispatcher.served_by(endpoint) for id_, endpoint in Endpoints().items()}
        assert served["fal-ai/flux-pro"] == served["fal-ai/flux/dev"] == "impasto-mini"
        assert served["fal-ai/flux-pro/v1.1"] is None


async def test_a_model_of_few_steps_draws_for_its_own_endpoints_unless_the_operator_says_otherwise(
    house: House,
) -> None:
    await house.until_ready()
    (runner,) = house.dispatcher._runners.values()
    assert runner.ready is not None
    runner.ready = msgspec.structs.replace(runner.ready, models=["impasto-mini", "impasto-mini-schnell"])
    endpoints = Endpoints()
    schnell, dev = endpoints["fal-ai/flux/schnell"], endpoints["fal-ai/flux/dev"]
    assert house.dispatcher.served_by(schnell) == "impasto-mini-schnell"
    assert house.dispatcher.served_by(dev) == "impasto-mini"
    house.dispatcher._settings.model.serve["flux-schnell"] = "impasto-mini"
    assert house.dispatcher.served_by(schnell) == "impasto-mini"


async def test_a_model_serves_no_endpoint_whose_images_it_cannot_use(house: House) -> None:
    await house.until_ready()
    (runner,) = house.dispatcher._runners.values()
    assert runner.ready is not None
    endpoints = Endpoints()
    fill, dev, canny = (endpoints[f"fal-ai/{id_}"] for id_ in ("flux-pro/v1/fill", "flux/dev", "flux-pro/v1/canny"))
    assert house.dispatcher.lack(fill) is None, "the test pictures take every image"
    name = runner.ready.models[0]
    runner.ready = msgspec.structs.replace(runner.ready, senses={name: senses_of(IMPASTO_MINI, redux=False)})
    assert (house.dispatcher.served_by(fill), house.dispatcher.served_by(dev)) == (None, name)
    assert house.dispatcher.lack(fill).commands == (  # pyright: ignore[reportOptionalMemberAccess]
        "impasto models pull flux.1-fill-dev", "impasto serve --model flux.1-fill-dev",
    )  # fmt: skip
    runner.ready = msgspec.structs.replace(runner.ready, senses={name: senses_of(FLUX1_FILL, redux=False)})
    assert (house.dispatcher.served_by(fill), house.dispatcher.served_by(dev)) == (name, None)
    assert "can only fill" in house.dispatcher.lack(dev).reason  # pyright: ignore[reportOptionalMemberAccess]
    assert "needs FLUX.1-Canny-dev" in house.dispatcher.lack(canny).reason  # pyright: ignore[reportOptionalMemberAccess]


async def test_a_small_request_of_another_key_steps_in_between_large_ones(tmp_path: Path) -> None:
    """Two large requests fill both slots and a third waits: the small one is drawn before any of them has ended."""
    async with open_house(make_settings(tmp_path, slots=2), step_seconds=0.01) as house:
        await house.until_ready()
        large = {"image_size": {"width": 512, "height": 512}, "num_images": 4, "num_inference_steps": 50}
        ids = [await house.submit(key_id="a", **large) for _ in range(3)]
        await house.until_drawing(ids[0], step=3)
        small = await house.submit(key_id="b", num_inference_steps=8)
        request, _ = await house.ended(small)
        assert request.outcome is Outcome.OK
        assert [house.request(id_).status for id_ in ids[:2]] == [Status.IN_PROGRESS] * 2
        assert house.request(ids[2]).status is Status.IN_QUEUE, "the key itself has no more than its slots"
        steps = house.dispatcher.progress(ids[0])
        assert steps is not None
        assert steps.share < 0.9
        for id_ in ids:
            await house.store.cancel(id_)


async def test_a_key_that_watches_many_requests_makes_no_other_key_s_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("impasto.fleet.dispatcher.WATCHED_MAX", 10)
    house.dispatcher.want_previews("mine", key_id="a")
    for number in range(50):
        house.dispatcher.want_previews(f"flood-{number}", key_id="b")
    assert list(house.dispatcher._watched) == ["mine", *(f"flood-{number}" for number in range(41, 50))]
