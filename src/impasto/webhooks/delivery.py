"""The deliverer: claims what is due, sends it, records what came of it. At least once; never before the result.

    outbox ─▶ keys and hosts with something due ─▶ turns, free slots? ─▶ claim ─▶ sign ─▶ POST ─┬▶ DELIVERED: 2xx
      ▲  rings when a request ends                                              ├▶ DEAD: refused, 3xx, tries used up
      └─────────────────────────────────────────────────────────────────────────┴─ DUE again, later each time

In: the store's outbox. Out: signed POSTs, lines of the delivery log. A claim is kept in the store and lapses, so that a
process that dies loses no webhook: it is sent again, and receivers know a request by its id. Every attempt carries a
fresh time and signature.
"""

import asyncio
import contextlib
import ipaddress
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from impasto import telemetry
from impasto.errors import StoreError
from impasto.files.fetch import FetchError, FetchPolicy, FetchRefused, send
from impasto.files.names import Names
from impasto.settings import Settings
from impasto.store.base import Store
from impasto.store.records import Delivery, DeliveryAttempt, DeliveryState, Lane, Request, SigningKey
from impasto.webhooks.hosts import Hosts
from impasto.webhooks.payload import MIB, body_of
from impasto.webhooks.signature import signed_headers

log = logging.getLogger("impasto.webhooks")

POLL_SECONDS = 1.0  # another process may have asked for a delivery; a host's rate may allow more
LISTEN_SECONDS = 3600.0
RESTS = 20  # a look for what is due is followed by a rest so many times as long: it has the event loop for itself
SHARES = 4  # one key has at most a quarter of the slots while others wait
RESERVE = 8  # and alone all but an eighth
GRACE_SECONDS = 15.0  # from the end of a try's patience to the lapse of its claim
DRAIN_SECONDS = 5.0  # that a stop waits for tries under way
SPREAD = 0.1  # of a delay: webhooks that failed together do not come back together
NOBODY = "local"  # the user id of a server that asks for no key
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
STOPPED = "The server was stopped before the answer came."


@dataclass(frozen=True, slots=True)
class Try:
    """What became of one POST."""

    http_status: int | None  # None: there was no answer
    error: str | None  # None: delivered
    final: bool = False  # trying again is pointless


def policy_of(settings: Settings) -> FetchPolicy:
    """What webhooks may reach: what other URLs may and, by `webhooks.loopback` and who may call, this machine."""
    policy = FetchPolicy.of(settings)
    if settings.webhooks.loopback == "yes" or (settings.webhooks.loopback == "auto" and settings.trusts_callers):
        return replace(policy, networks=(*policy.networks, *LOOPBACK))
    return policy


def user_id(request: Request) -> str:
    """Who asked, as receivers see it: the public half of the key."""
    return request.key_id or NOBODY


class Deliverer:
    """`async with Deliverer(...)`: delivers from then on. `policy` default: `policy_of(settings)`, own look-ups."""

    def __init__(self, *, settings: Settings, store: Store, policy: FetchPolicy | None = None) -> None:
        self._settings = settings.webhooks
        self._public_url = settings.server.public_url
        self._store = store
        self._names = Names()
        self._policy = policy or replace(policy_of(settings), resolve=self._names.resolve)
        self._hosts = Hosts(slots=self._settings.per_host, rate=self._settings.per_host_rate)
        self._drain_seconds = min(DRAIN_SECONDS, settings.server.drain_seconds)
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._tries: set[asyncio.Task[None]] = set()
        self._busy: Counter[str] = Counter()  # tries under way, by key
        self._rest = 0.0  # seconds before the next look

    # ------------------------------------------------------------ start and stop

    async def __aenter__(self) -> Self:
        await self._store.ensure_signing_key()
        self._loops = [asyncio.create_task(self._claim_for_ever()), asyncio.create_task(self._listen())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Claim nothing more; tries under way get some seconds, the rest is sent again after the next start."""
        await _cancel(self._loops)
        if self._tries:
            await asyncio.wait(self._tries, timeout=self._drain_seconds)
        await _cancel(self._tries)
        self._names.close()

    # ------------------------------------------------------------ the loop

    async def _claim_for_ever(self) -> None:
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            await asyncio.sleep(self._rest)
            self._wake.clear()
            pause = POLL_SECONDS
            try:
                pause = await self._claim()
            except Exception:
                log.exception("Claiming webhooks failed; it is tried again in a second")

    async def _listen(self) -> None:
        while True:
            await self._store.delivery_due(timeout=LISTEN_SECONDS)
            self._wake.set()

    async def _claim(self) -> float:
        """Begin what may begin now; → seconds until it is worth looking again, if nothing rings before."""
        self._hosts.forget()
        start = time.monotonic()
        lanes, now = await asyncio.to_thread(self._store.deliveries_due), self._store.steady()
        pause = min((at - now for at in lanes.values() if at > now), default=POLL_SECONDS)
        due = [lane for lane, at in lanes.items() if at <= now]
        random.shuffle(due)  # when there is not enough for all, nobody is always the last
        # With ten thousand hosts a look takes long, and every try that ends asks for one.
        self._rest = min((time.monotonic() - start) * RESTS, POLL_SECONDS)
        while wanted := self._share(due):
            begun = await self._begin(wanted)
            due = [lane for lane in due if begun[lane] == wanted.get(lane, 0)]  # the others have no more
        return min(pause, POLL_SECONDS)

    def _share(self, due: Sequence[Lane]) -> dict[Lane, int]:
        """How many tries may begin in each lane: the key with the fewest under way comes next, its hosts in turn."""
        total, busy = self._settings.concurrency, self._busy.copy()
        free, room = total - len(self._tries), {host: self._hosts.free(host) for _, host in due}
        waiting: dict[str, deque[str]] = {}
        for key_id, host in due:
            if room[host] > 0:
                waiting.setdefault(key_id, deque()).append(host)
        # One key alone leaves a few slots free: whoever comes then need not wait for tries of two minutes.
        most = max(total // SHARES, 1) if len(waiting) > 1 else total - total // RESERVE
        wanted: Counter[Lane] = Counter()
        while free > 0 and waiting:
            key_id = min(waiting, key=lambda key_id: busy[key_id])
            host = waiting[key_id].popleft()
            if room[host] > 0 and busy[key_id] < most:
                wanted[key_id, host] += 1
                busy[key_id] += 1
                room[host] -= 1
                free -= 1
                waiting[key_id].append(host)
            if not waiting[key_id] or busy[key_id] >= most:
                del waiting[key_id]
        return wanted

    async def _begin(self, wanted: Mapping[Lane, int]) -> Counter[Lane]:
        """Claim and start; → how many in each lane."""
        begun: Counter[Lane] = Counter()
        patience = max(self._settings.seconds, self._settings.retry_seconds)
        for delivery in await self._store.claim_deliveries(wanted, seconds=patience + GRACE_SECONDS):
            begun[delivery.key_id, delivery.host] += 1
            self._hosts.began(delivery.host)
            self._busy[delivery.key_id] += 1
            self._spawn(self._deliver(delivery), delivery.key_id)
        return begun

    def _spawn(self, work: Coroutine[Any, Any, None], key_id: str) -> None:
        task = asyncio.create_task(work)
        self._tries.add(task)
        task.add_done_callback(lambda task: self._ended(task, key_id))

    def _ended(self, task: asyncio.Task[None], key_id: str) -> None:
        self._tries.discard(task)
        self._busy -= Counter({key_id: 1})  # which drops a key that has none left
        self._wake.set()  # a slot is free

    # ------------------------------------------------------------ one attempt

    async def _deliver(self, delivery: Delivery) -> None:
        telemetry.request_id.set(delivery.request_id)
        at, start = time.time(), time.monotonic()
        try:
            tried = await self._send(delivery)
        except asyncio.CancelledError:
            tried = Try(None, STOPPED)
        except Exception:
            # A fault of ours must neither stop the others nor bring this one back at once, again and again.
            log.exception("The webhook could not be sent")
            tried = Try(None, "The server failed to send it.")
        self._hosts.ended(delivery.host, answered=tried.http_status is not None or tried.final)
        attempt = DeliveryAttempt(
            number=delivery.attempt,
            at=at,
            http_status=tried.http_status,
            error=tried.error,
            seconds=time.monotonic() - start,
        )
        try:
            await self._settle(delivery, attempt, tried)
        except StoreError:
            log.exception("What became of the webhook could not be kept: it is sent again when its claim lapses")

    async def _send(self, delivery: Delivery) -> Try:
        request, result = self._store.get(delivery.request_id), self._store.result(delivery.request_id)
        if request is None or result is None:
            return Try(None, "The result is no longer kept.", final=True)
        base = self._public_url or request.base_url
        body = body_of(request, result, max_bytes=int(self._settings.max_mb * MIB), base_url=base)
        now = time.time()
        headers = signed_headers(
            private=_signer(self._store.signing_keys(), now).private,
            request_id=request.request_id,
            user_id=user_id(request),
            timestamp=int(now),
            body=body,
        )
        headers["Content-Type"] = "application/json"
        seconds = self._settings.seconds if delivery.tries == 1 else self._settings.retry_seconds
        try:
            sent = await send(delivery.url, body, headers=headers, policy=self._policy, seconds=seconds)
        except FetchRefused as error:
            return Try(None, error.message, final=True)
        except FetchError as error:
            return Try(None, error.message)
        return _judge(sent.http_status)

    async def _settle(self, delivery: Delivery, attempt: DeliveryAttempt, tried: Try) -> None:
        """Record the attempt: delivered, given up, or due again."""
        if tried.error is None:
            log.info("Webhook delivered to %s in %.2f s (try %d)", delivery.host, attempt.seconds, delivery.tries)
            await self._store.record_delivery(delivery, attempt, state=DeliveryState.DELIVERED)
            return
        delay = None if tried.final else delay_after(delivery.tries, self._settings.retry_after)
        if tried.error == STOPPED:
            delay = 0.0
        if delay is None:
            log.warning("Webhook to %s given up (try %d): %s", delivery.host, delivery.tries, tried.error)
            note = f"The webhook was not delivered and is given up after {_tries(delivery.tries)}: {tried.error}"
            await self._store.record_delivery(delivery, attempt, state=DeliveryState.DEAD, note=note)
            return
        log.info("Webhook to %s failed (try %d), next in %.0f s: %s", delivery.host, delivery.tries, delay, tried.error)
        next_at = self._store.steady() + delay
        await self._store.record_delivery(delivery, attempt, state=DeliveryState.DUE, next_at=next_at)


def delay_after(tries: int, delays: Sequence[float]) -> float | None:
    """Seconds from the end of try number `tries`, which failed, to the next one; None: there is none."""
    return None if tries > len(delays) else delays[tries - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)


def _judge(http_status: int) -> Try:
    if 200 <= http_status < 300:
        return Try(http_status, None)
    if 300 <= http_status < 400:
        return Try(http_status, f"It answers with status {http_status}; webhooks follow no redirects.", final=True)
    return Try(http_status, f"It answers with status {http_status}.")


def _signer(keys: list[SigningKey], now: float) -> SigningKey:
    """The youngest key whose time has come; the oldest, when the clock was set back to before that."""
    return next((key for key in reversed(keys) if key.active_from <= now), keys[0])


def _tries(count: int) -> str:
    return "1 try" if count == 1 else f"{count} tries"


async def _cancel(tasks: set[asyncio.Task[None]] | list[asyncio.Task[None]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
