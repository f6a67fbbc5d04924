"""What a receiver may rely on: every ended request is told, signed and readable, until it is taken or patience ends."""

import asyncio
import hashlib
import json
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from impasto.errors import StoreError
from impasto.settings import AuthSettings, FetchSettings, ServerSettings, Settings, WebhookSettings
from impasto.store.records import DeliveryState, Outcome
from impasto.store.sqlite import SqliteStore
from impasto.webhooks.delivery import STOPPED, Deliverer, delay_after, policy_of
from impasto.webhooks.verify import verify

DEFAULTS = WebhookSettings().retry_after


def key_of(store, got) -> str:
    """The kid of the key that signed it."""
    for key in store.signing_keys():
        try:
            verify(got.headers, got.body, [key.public])
        except Exception:  # noqa: BLE001 - another key's
            continue
        return key.kid
    raise AssertionError("signed by nobody")


class TestSuccess:
    async def test_an_ended_request_is_told_once_and_the_receiver_can_read_the_result(
        self, receive, deliverer, finish, settled, store
    ):
        receiver, readable = await receive(), []
        receiver.on_arrival = lambda got: readable.append(store.result(got.webhook["request_id"]))
        async with deliverer():
            request_id = await finish(f"{receiver.url}?a=1&b=%20", {"images": [{"url": "u"}], "seed": 2**63})
            delivery, log = await settled(request_id)
        (got,) = receiver.got
        assert got.path == "/hook?a=1&b=%20"
        assert got.body == (
            b'{"request_id":"%(id)s","gateway_request_id":"%(id)s","status":"OK",'
            b'"payload":{"images":[{"url":"u"}],"seed":9223372036854775808}}' % {b"id": request_id.encode()}
        )
        assert got.headers["Content-Type"] == "application/json"
        assert readable[0].payload == got.webhook["payload"]
        assert delivery.state is DeliveryState.DELIVERED
        assert [(line.number, line.http_status, line.error) for line in log] == [(1, 200, None)]

    async def test_the_signature_covers_the_bytes_sent_as_the_protocol_says(self, receive, deliverer, finish, store):
        receiver = await receive()
        async with deliverer():
            await finish(receiver.url, key_id="7d9f2a34-key")
            await receiver.count(1)
        (got,) = receiver.got
        lines = [got.headers[f"X-Fal-Webhook-{name}"] for name in ("Request-Id", "User-Id", "Timestamp")]
        assert lines[:2] == [got.webhook["request_id"], "7d9f2a34-key"]
        signature = got.headers["X-Fal-Webhook-Signature"]
        assert signature == signature.lower()
        assert len(signature) == 128
        message = "\n".join([*lines, hashlib.sha256(got.body).hexdigest()]).encode()
        (key,) = store.signing_keys()
        Ed25519PublicKey.from_public_bytes(key.public).verify(bytes.fromhex(signature), message)

    async def test_without_keys_the_user_has_one_name(self, receive, deliverer, finish):
        receiver = await receive()
        async with deliverer():
            await finish(receiver.url)
            await receiver.count(1)
        assert receiver.got[0].headers["X-Fal-Webhook-User-Id"] == "local"

    async def test_what_a_former_process_left_is_delivered_at_the_start(self, receive, deliverer, finish):
        receiver = await receive()
        request_ids = {await finish(receiver.url) for _ in range(5)}
        async with deliverer():
            await receiver.count(5)
        assert {got.webhook["request_id"] for got in receiver.got} == request_ids

    async def test_a_request_that_is_not_to_be_kept_is_told_all_the_same(self, receive, deliverer, finish):
        receiver = await receive()
        async with deliverer():
            await finish(receiver.url, {"images": ["secret"]}, store_io=False)
            await receiver.count(1)
        assert receiver.got[0].webhook["payload"] == {"images": ["secret"]}


class TestErrors:
    async def test_a_failed_request_says_error_with_its_error_body(self, receive, deliverer, finish, genuine):
        receiver = await receive()
        body = {"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]}
        async with deliverer():
            request_id = await finish(receiver.url, body, status=422, outcome=Outcome.ERROR)
            await receiver.count(1)
        assert list(receiver.got[0].webhook.items()) == [
            ("request_id", request_id),
            ("gateway_request_id", request_id),
            ("status", "ERROR"),
            ("error", "Invalid status code: 422"),
            ("payload", body),
        ]
        genuine(receiver.got[0])

    async def test_a_cancelled_request_and_one_that_started_too_late_say_error(self, receive, deliverer, finish, store):
        receiver = await receive()
        async with deliverer():
            for status, outcome in ((499, Outcome.CANCELLED), (504, Outcome.TIMEOUT)):
                await finish(receiver.url, {"detail": "x"}, status=status, outcome=outcome)
            await receiver.count(2)
        found = {(got.webhook["status"], got.webhook["error"]) for got in receiver.got}
        assert found == {("ERROR", "Invalid status code: 499"), ("ERROR", "Invalid status code: 504")}


class TestRetries:
    def test_the_schedule_is_ten_retries_in_two_hours_each_ten_percent_about(self):
        assert DEFAULTS == (10, 30, 60, 120, 240, 480, 900, 1200, 1800, 2400)
        for tries, delay in enumerate(DEFAULTS, start=1):
            drawn = [delay_after(tries, DEFAULTS) for _ in range(200)]
            assert all(0.9 * delay <= seconds <= 1.1 * delay for seconds in drawn)
            assert max(drawn) - min(drawn) > 0.05 * delay
        assert delay_after(len(DEFAULTS) + 1, DEFAULTS) is None

    async def test_a_failed_try_is_due_again_when_the_schedule_says(self, receive, deliverer, finish, settled):
        receiver = await receive(500)
        async with deliverer(retry_after=DEFAULTS):
            delivery, (line,) = await settled(await finish(receiver.url), 1)
        assert delivery.state is DeliveryState.DUE
        assert 9 <= delivery.next_at - line.at - line.seconds <= 11 + 5
        assert (line.http_status, line.error) == (500, "It answers with status 500.")

    @pytest.mark.parametrize("trouble", [500, 503, 404, 410, 429, 102, "reset", b"SSH-2.0-x\r\n"])
    async def test_whatever_goes_wrong_it_comes_again_until_it_is_taken(
        self, receive, deliverer, finish, settled, trouble
    ):
        receiver = await receive(trouble, trouble)
        async with deliverer():
            delivery, log = await settled(await finish(receiver.url))
        assert delivery.state is DeliveryState.DELIVERED
        assert [line.error is None for line in log] == [False, False, True]
        assert len({got.body for got in receiver.got}) == 1

    async def test_every_attempt_carries_a_fresh_time_and_signature(self, receive, deliverer, finish, settled, genuine):
        receiver = await receive(500, 500)
        async with deliverer(retry_after=(1.3, 1.3)):
            _, log = await settled(await finish(receiver.url))
        stamps = [int(got.headers["X-Fal-Webhook-Timestamp"]) for got in receiver.got]
        assert all(0 <= stamp - int(line.at) <= 1 for stamp, line in zip(stamps, log, strict=True))
        assert len(set(stamps)) == 3
        assert len({got.headers["X-Fal-Webhook-Signature"] for got in receiver.got}) == 3
        for got in receiver.got:
            genuine(got)

    async def test_one_that_hangs_is_left_after_its_time(self, receive, deliverer, finish, settled):
        receiver = await receive("hang", "hang")
        async with deliverer(seconds=0.2, retry_seconds=0.3):
            _, log = await settled(await finish(receiver.url))
        assert [line.error for line in log] == [
            "There was no answer within 0.2 s.", "There was no answer within 0.3 s.", None
        ]  # fmt: skip

    async def test_after_the_last_try_it_is_given_up_and_the_request_log_says_why(
        self, receive, deliverer, finish, settled, store
    ):
        receiver = await receive(*[500] * 9)
        async with deliverer(retry_after=(0, 0)):
            request_id = await finish(receiver.url)
            delivery, log = await settled(request_id)
        assert delivery.state is DeliveryState.DEAD
        assert len(log) == len(receiver.got) == 3
        (line,) = store.logs(request_id)
        assert (line.level, line.message) == (
            "WARN", "The webhook was not delivered and is given up after 3 tries: It answers with status 500."
        )  # fmt: skip

    async def test_asked_for_again_a_dead_one_gets_a_series_of_its_own(
        self, receive, deliverer, finish, settled, store
    ):
        receiver = await receive(500, 500, 500)
        async with deliverer(retry_after=(0,)):
            request_id = await finish(receiver.url)
            await settled(request_id)
            assert await store.redeliver(request_id)
            delivery, log = await settled(request_id)
        assert delivery.state is DeliveryState.DELIVERED
        assert [line.http_status for line in log] == [500, 500, 500, 200]


class TestTargets:
    @pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
    async def test_a_redirect_is_final_and_not_followed(self, receive, deliverer, finish, settled, store, status):
        elsewhere = await receive()
        receiver = await receive(
            f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        async with deliverer():
            request_id = await finish(receiver.url)
            delivery, log = await settled(request_id)
        assert delivery.state is DeliveryState.DEAD
        assert [line.http_status for line in log] == [status]
        assert elsewhere.got == []
        assert "redirects" in store.logs(request_id)[0].message

    async def test_a_private_target_is_dropped_without_a_connection_and_both_logs_say_so(
        self, receive, deliverer, finish, settled, store
    ):
        receiver = await receive()
        async with deliverer(loopback="no"):
            request_id = await finish(receiver.url)
            delivery, log = await settled(request_id)
        assert delivery.state is DeliveryState.DEAD
        assert receiver.got == []
        assert receiver.most_open == 0
        assert [line.http_status for line in log] == [None]
        assert "not a public address" in (log[0].error or "")
        assert "not a public address" in store.logs(request_id)[0].message

    async def test_an_allowed_host_may_be_private(self, receive, store, finish, settled):
        receiver = await receive()
        url = receiver.url.replace("127.0.0.1", "localhost")
        tree = Settings(fetch=FetchSettings(allow=("localhost",)), webhooks=WebhookSettings(loopback="no"))
        async with Deliverer(settings=tree, store=store):
            delivery, _ = await settled(await finish(url))
        assert delivery.state is DeliveryState.DELIVERED

    @pytest.mark.parametrize(
        ("host", "loopback", "allowed"),
        [
            ("127.0.0.1", "auto", True),
            ("localhost", "auto", True),
            ("0.0.0.0", "auto", False),
            ("192.0.2.1", "auto", False),
            ("0.0.0.0", "yes", True),
            ("127.0.0.1", "no", False),
        ],
    )
    def test_loopback_is_allowed_by_its_setting(self, host, loopback, allowed):
        from ipaddress import ip_address

        tree = Settings(server=ServerSettings(host=host), webhooks=WebhookSettings(loopback=loopback))
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert policy_of(tree).allows(ip_address(address), "x") is allowed
        assert not policy_of(tree).allows(ip_address("10.0.0.1"), "x")
        assert not policy_of(tree).allows(ip_address("169.254.169.254"), "x")

    @pytest.mark.parametrize(
        ("mode", "public_url", "loopback", "allowed"),
        [
            ("auto", None, "auto", True),
            ("auto", "http://localhost:8000", "auto", True),
            ("auto", "https://draw.example.org", "auto", False),
            ("open", "https://draw.example.org", "auto", False),
            ("keys", None, "auto", False),
            ("open", None, "auto", False),  # pages of all sites may call
            ("keys", "https://draw.example.org", "yes", True),
        ],
    )
    def test_remote_callers_reach_loopback_only_when_the_owner_says_so(self, mode, public_url, loopback, allowed):
        from ipaddress import ip_address

        tree = Settings(
            server=ServerSettings(host="127.0.0.1", public_url=public_url),
            auth=AuthSettings(mode=mode),
            webhooks=WebhookSettings(loopback=loopback),
        )
        for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
            assert policy_of(tree).allows(ip_address(address), "x") is allowed

    async def test_a_remote_callers_webhook_makes_no_connection_to_the_servers_own_loopback(
        self, receive, store, finish, settled
    ):
        receiver = await receive()
        async with Deliverer(settings=Settings(auth=AuthSettings(mode="keys")), store=store):
            delivery, log = await settled(await finish(receiver.url))
        assert delivery.state is DeliveryState.DEAD
        assert receiver.most_open == 0
        assert "not a public address" in (log[0].error or "")


class TestAClockThatIsSet:
    """The machine's clock is set while a retry waits: it comes when the schedule says, not an hour off."""

    @pytest.fixture
    def set_by(self):
        return [0.0]

    @pytest.fixture
    async def store(self, tmp_path, set_by):
        opened = await SqliteStore.open(
            tmp_path / "set.sqlite3", clock=lambda: time.time() + set_by[0], monotonic=time.monotonic
        )
        yield opened
        await opened.close()

    @pytest.mark.parametrize("step", [-3600.0, 3600.0])
    async def test_a_retry_comes_after_its_delay(self, receive, deliverer, finish, set_by, step):
        receiver = await receive(500)
        receiver.on_arrival = lambda got: set_by.__setitem__(0, step)
        async with deliverer(retry_after=(0.2,)):
            await finish(receiver.url)
            await receiver.count(2)

    async def test_a_retry_that_is_not_due_is_not_sent_early(self, receive, deliverer, finish, settled, store, set_by):
        receiver = await receive(500)
        async with deliverer(retry_after=(1800,)):
            await settled(await finish(receiver.url), 1)
            set_by[0] = 7200.0
            (lane,) = store.deliveries_due()
            assert await store.claim_deliveries({lane: 1}, seconds=30) == []
            assert 1500 < store.deliveries_due()[lane] - store.steady() < 2100


class TestNeighbours:
    async def test_a_host_that_hangs_keeps_its_own_slots_busy_and_nobody_else(self, receive, deliverer, finish):
        hanging, healthy = await receive(*["hang"] * 40), await receive()
        async with deliverer(per_host=4, concurrency=6):
            for _ in range(40):
                await finish(hanging.url)
            await hanging.count(4)
            for _ in range(40):
                await finish(healthy.url)
            await healthy.count(40)
            assert len(hanging.got) == 4

    async def test_a_key_whose_hosts_hang_leaves_slots_to_others(self, receive, deliverer, finish):
        hanging, healthy = [await receive("hang", "hang") for _ in range(20)], await receive()
        busy, got = asyncio.Event(), []

        def came(webhook: object) -> None:
            got.append(webhook)
            if len(got) == 14:
                busy.set()

        for receiver in hanging:
            receiver.on_arrival = came
        async with deliverer(concurrency=16):
            for receiver in hanging * 2:
                await finish(receiver.url, key_id="mallory")
            await asyncio.wait_for(busy.wait(), 60)
            for _ in range(8):
                await finish(healthy.url, key_id="victim")
            await healthy.count(8)
            assert len(got) == 14, "alone it has all slots but an eighth"

    async def test_while_others_wait_a_key_has_a_quarter_of_the_slots(self, receive, deliverer, finish):
        receivers = {key: await receive(*["hang"] * 30) for key in ("a", "b")}
        for _ in range(30):
            for key, receiver in receivers.items():
                await finish(receiver.url, key_id=key)
        async with deliverer(concurrency=16):
            for receiver in receivers.values():
                await receiver.count(4)
            await asyncio.sleep(0.2)
            assert [receiver.open for receiver in receivers.values()] == [4, 4]

    async def test_one_host_gets_no_more_than_its_slots_at_a_time(self, receive, deliverer, finish):
        receiver = await receive()
        for _ in range(30):
            await finish(receiver.url)
        async with deliverer(per_host=3, per_host_rate=1000):
            await receiver.count(30)
        assert 1 <= receiver.most_open <= 3

    async def test_a_fault_of_ours_costs_one_try_and_stops_nobody(
        self, receive, deliverer, finish, settled, store, caplog
    ):
        receiver = await receive()
        poisoned = await finish(receiver.url)
        real, failed = store.result, []

        def result(request_id: str):
            if request_id == poisoned and not failed:
                failed.append(request_id)
                raise StoreError("a bad page")
            return real(request_id)

        class Faulty:
            """The store, but for one result that cannot be read once."""

            def __getattr__(self, name: str):
                return result if name == "result" else getattr(store, name)

        tree = Settings(webhooks=WebhookSettings(retry_after=(0, 0)))
        async with Deliverer(settings=tree, store=Faulty()):  # type: ignore[arg-type]
            other = await finish(receiver.url)
            assert (await settled(other))[0].state is DeliveryState.DELIVERED
            delivery, log = await settled(poisoned)
        assert delivery.state is DeliveryState.DELIVERED
        assert [line.error for line in log] == ["The server failed to send it.", None]
        assert "could not be sent" in caplog.text


class TestStop:
    async def test_a_try_under_way_is_waited_for(self, receive, deliverer, finish, settled):
        receiver = await receive("late")
        async with deliverer():
            request_id = await finish(receiver.url)
            await receiver.count(1)
            asyncio.get_running_loop().call_later(0.3, receiver.release.set)
        delivery, log = await settled(request_id, 1)
        assert (delivery.state, len(log)) == (DeliveryState.DELIVERED, 1)

    async def test_what_is_cut_short_is_due_at_once_and_the_next_server_sends_it(
        self, receive, store, deliverer, finish, settled
    ):
        receiver = await receive("hang")
        tree = Settings(server=ServerSettings(drain_seconds=0), webhooks=WebhookSettings())
        async with Deliverer(settings=tree, store=store):
            request_id = await finish(receiver.url)
            await receiver.count(1)
        delivery, log = await settled(request_id, 1)
        assert (delivery.state, delivery.claimed_until, log[0].error) == (DeliveryState.DUE, None, STOPPED)
        async with deliverer():
            delivery, log = await settled(request_id)
        assert delivery.state is DeliveryState.DELIVERED
        assert len(log) == 2

    async def test_a_stop_leaves_no_task_behind(self, receive, deliverer, finish):
        before = asyncio.all_tasks()
        receiver = await receive("hang")
        async with deliverer(seconds=0.1):
            await finish(receiver.url)
            await receiver.count(1)
        receiver.release.set()
        left = [task for task in asyncio.all_tasks() - before if task not in receiver.serving]
        assert left == []


class TestKeys:
    async def test_the_first_start_makes_a_key_and_the_next_one_keeps_it(self, store, deliverer):
        async with deliverer():
            (first,) = store.signing_keys()
        async with deliverer():
            assert store.signing_keys() == [first]

    async def test_a_new_key_signs_only_when_its_time_has_come(self, receive, deliverer, finish, store):
        receiver = await receive()
        async with deliverer():
            (old,) = store.signing_keys()
            new = await store.rotate_signing_key(overlap=3600)
            await finish(receiver.url)
            await receiver.count(1)
            assert {key.kid for key in store.signing_keys()} == {old.kid, new.kid}
            assert key_of(store, receiver.got[0]) == old.kid
            newest = await store.rotate_signing_key(overlap=0)
            await finish(receiver.url)
            await receiver.count(2)
            assert key_of(store, receiver.got[1]) == newest.kid
        with pytest.raises(AssertionError, match="signed by nobody"):
            key_of(store, receiver.got[0])


class TestSize:
    async def test_a_payload_that_is_too_large_is_left_out_and_said_so(self, receive, deliverer, finish, genuine):
        receiver = await receive()
        async with deliverer(max_mb=0.001):
            await finish(receiver.url, {"images": [{"url": "data:image/png;base64," + "A" * 2000}]})
            await receiver.count(1)
        webhook = json.loads(receiver.got[0].body)
        assert (webhook["status"], webhook["payload"]) == ("OK", None)
        assert "too large" in webhook["payload_error"]
        genuine(receiver.got[0])

    async def test_pictures_in_data_uris_travel_with_it_while_they_fit(self, receive, deliverer, finish):
        receiver = await receive()
        payload = {"images": [{"url": "data:image/png;base64," + "A" * 3_000_000}]}
        async with deliverer():
            await finish(receiver.url, payload)
            await receiver.count(1)
        assert receiver.got[0].webhook["payload"] == payload
