"""Any order of verbs: the store agrees with a small model of what was promised."""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from impasto.store.records import CancelResult, LogLine, NewRequest, Outcome, Result, Status
from impasto.store.sqlite import SqliteStore

ENDPOINTS = ("a", "b")
LEASE = 15.0
MAX_CRASHES = 2


@dataclass
class Model:
    """What a caller may rely on about one request."""

    number: int  # order of arrival
    endpoint: str
    priority: int
    no_retry: bool
    max_attempts: int
    deadline: float
    status: Status = Status.IN_QUEUE
    outcome: Outcome | None = None
    attempt: int = 0
    crashes: int = 0
    lease: str | None = None
    winner: str | None = None  # the lease whose finish was taken
    lease_until: float = 0.0
    back_off: tuple[float, float] = (0.0, 0.0)  # not before the first, certainly after the second
    cancel_asked: bool = False
    payload: object = None
    past_leases: list[str] = field(default_factory=list)

    def complete(self, outcome: Outcome) -> None:
        self.status, self.outcome, self.lease = Status.COMPLETED, outcome, None

    def lose(self, now: float, *, crashed: bool, drain: bool) -> None:
        self.past_leases.append(self.lease or "")
        if self.cancel_asked:
            self.complete(Outcome.CANCELLED)
            return
        self.crashes += crashed
        last = self.no_retry or self.attempt >= self.max_attempts or self.crashes >= MAX_CRASHES
        if last and not drain:
            self.complete(Outcome.ERROR)
            return
        base = 0.5 * 2 ** (self.attempt - 1)
        low, high = (0.0, 0.0) if drain else (now + base * 0.8, now + base * 1.2)
        if crashed and self.crashes == 1 and not drain:
            low, high = min(low, now + 0.5), min(high, now + 0.5)
        self.attempt -= drain
        self.status, self.lease, self.back_off = Status.IN_QUEUE, None, (low, high)


class StoreMachine(RuleBasedStateMachine):
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1_800_000_000.0
        self.models: dict[str, Model] = {}
        self.store = self.open()

    def open(self) -> SqliteStore:
        path = Path(self.folder.name) / "impasto.sqlite3"
        return self.do(SqliteStore.open(path, clock=lambda: self.now, lease_seconds=LEASE, max_crashes=MAX_CRASHES))

    def do(self, awaitable):
        return self.runner.run(awaitable)

    def teardown(self) -> None:
        self.do(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    # ------------------------------------------------------------ verbs

    @rule(
        target=requests,
        count=st.integers(1, 3),
        endpoint=st.sampled_from(ENDPOINTS),
        priority=st.integers(0, 1),
        no_retry=st.booleans(),
        max_attempts=st.integers(1, 3),
        patience=st.sampled_from([None, None, 3.0, 20.0]),
    )
    def submit(self, count, endpoint, priority, no_retry, max_attempts, patience):
        ids = []
        for _ in range(count):
            ids.append(f"request-{len(self.models)}")
            new = NewRequest(
                request_id=ids[-1],
                endpoint=endpoint,
                input={"n": len(self.models)},
                seed=1,
                base_url="b",
                priority=priority,
                no_retry=no_retry,
                max_attempts=max_attempts,
                start_timeout=patience,
                webhook_url="https://example.org/hook",
            )
            self.do(self.store.submit(new))
            deadline = float("inf") if patience is None else self.now + patience
            self.models[ids[-1]] = Model(len(self.models), endpoint, priority, no_retry, max_attempts, deadline)
        return multiple(*ids)

    @rule(endpoints=st.sets(st.sampled_from(ENDPOINTS), min_size=1), limit=st.integers(1, 4), idle=st.booleans())
    def claim(self, endpoints, limit, idle):
        claimed = self.do(
            self.store.claim(endpoints=sorted(endpoints), runner_id="gpu", limit=limit, lease_seconds=LEASE, idle=idle)
        )
        seen = [request.request_id for request in claimed]
        line = sorted(
            (model.priority, model.number, request_id)
            for request_id, model in self.models.items()
            if model.status == Status.IN_QUEUE
            and model.endpoint in endpoints
            and model.deadline > self.now
            and model.back_off[0] <= self.now
        )
        # Between the two ends of a back-off either is right: such a request is there, or it is not.
        unsure = {i for _, _, i in line if i not in seen and self.models[i].back_off[1] >= self.now}
        sure = [i for _, _, i in line if i not in unsure]
        lines = [sure, *([i for _, _, i in line if i == also or i in sure] for also in unsure)]
        assert seen in [self.first_of(there, limit, idle) for there in lines]
        for request in claimed:
            model = self.models[request.request_id]
            assert request.lease not in model.past_leases
            model.status, model.lease, model.attempt = Status.IN_PROGRESS, request.lease, model.attempt + 1
            model.lease_until = self.now + LEASE

    def first_of(self, line, limit, idle):
        """Those that lost a runner come alone, and are not passed."""
        suspect = next((n for n, request_id in enumerate(line) if self.models[request_id].crashes), len(line))
        return line[: min(limit, max(suspect, int(idle)))]

    def lease_of(self, model: Model, stale: bool) -> str:
        return (model.past_leases or ["0" * 32])[-1] if stale else (model.lease or "0" * 32)

    @rule(request_id=requests, stale=st.booleans(), outcome=st.sampled_from([Outcome.OK, Outcome.ERROR]))
    def finish(self, request_id, stale, outcome):
        model = self.models[request_id]
        lease = self.lease_of(model, stale)
        held = model.lease is not None and lease == model.lease
        payload = {"by": lease}
        accepted = self.do(self.store.finish(request_id, lease, outcome=outcome, result=Result(200, payload)))
        assert accepted == (held or (model.winner is not None and lease == model.winner))
        if held:
            model.past_leases.append(lease)
            model.complete(outcome)
            model.winner, model.payload = lease, payload

    @rule(request_id=requests, stale=st.booleans(), how=st.sampled_from(["crash", "failure", "drain"]))
    def requeue(self, request_id, stale, how):
        model = self.models[request_id]
        lease = self.lease_of(model, stale)
        held = model.lease is not None and lease == model.lease
        moved = self.do(self.store.requeue(request_id, lease, crashed=how == "crash", drain=how == "drain", reason=how))
        assert (moved is not None) == held
        if held:
            model.lose(self.now, crashed=how == "crash", drain=how == "drain")
            assert moved == self.store.get(request_id)

    @rule(request_id=requests, stale=st.booleans())
    def renew(self, request_id, stale):
        model = self.models[request_id]
        lease = self.lease_of(model, stale)
        held = model.lease is not None and lease == model.lease
        lost, cancelled = self.do(self.store.renew({request_id: lease}, lease_seconds=LEASE))
        assert lost == ([] if held else [request_id])
        assert cancelled == ([request_id] if held and model.cancel_asked else [])
        assert self.do(self.store.progress(request_id, lease, [LogLine("t", "line")])) == held
        if held:
            model.lease_until = self.now + LEASE

    @rule(request_id=requests)
    def cancel(self, request_id):
        model = self.models[request_id]
        answer = self.do(self.store.cancel(request_id))
        if model.status == Status.COMPLETED:
            assert answer == CancelResult.ALREADY_COMPLETED
            return
        assert answer == CancelResult.CANCELLATION_REQUESTED
        if model.status == Status.IN_QUEUE:
            model.complete(Outcome.CANCELLED)
        else:
            model.cancel_asked = True

    @rule(seconds=st.sampled_from([0.3, 1.0, 4.0, 16.0]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule()
    def sweep(self):
        moved = 0
        for model in self.models.values():
            if model.status == Status.IN_PROGRESS and model.lease_until <= self.now:
                model.lose(self.now, crashed=True, drain=False)
                moved += 1
        for model in self.models.values():
            if model.status == Status.IN_QUEUE and model.deadline <= self.now:
                model.complete(Outcome.TIMEOUT)
                moved += 1
        assert self.do(self.store.sweep()) >= moved

    @rule()
    def restart(self):
        self.do(self.store.close())
        self.store = self.open()
        running = [model for model in self.models.values() if model.status == Status.IN_PROGRESS]
        assert self.do(self.store.recover()) == len(running)
        for model in self.models.values():
            if model.status == Status.IN_QUEUE:
                model.back_off = (0.0, 0.0)
        for model in running:
            model.lose(self.now, crashed=True, drain=not (model.no_retry or model.crashes + 1 >= MAX_CRASHES))

    # ------------------------------------------------------------ promises

    @invariant()
    def the_records_agree(self):
        for request_id, model in self.models.items():
            request, result = self.store.get(request_id), self.store.result(request_id)
            assert (request.status, request.outcome) == (model.status, model.outcome), request_id
            assert (request.attempt, request.crash_count) == (model.attempt, model.crashes), request_id
            assert request.lease == model.lease
            assert self.store.input(request.request_id) == {"n": model.number}
            assert (result is not None) == (model.status == Status.COMPLETED)
            if result is not None:
                model.payload = result.payload if model.payload is None else model.payload
                assert result.payload == model.payload, "a stored result does not change"
                assert result.http_status == request.http_status

    @invariant()
    def the_queue_agrees(self):
        waiting = {id_: model for id_, model in self.models.items() if model.status == Status.IN_QUEUE}
        line = sorted((model.priority, model.number, request_id) for request_id, model in waiting.items())
        places = [self.do(self.store.position(self.store.get(request_id))) for _, _, request_id in line]
        assert places == list(range(len(line)))
        for endpoint in ENDPOINTS:
            assert self.store.queued(endpoint) == sum(model.endpoint == endpoint for model in waiting.values())


@pytest.mark.parametrize("dialect", ["sqlite"])
def test_any_order_of_verbs_keeps_the_promises(dialect):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
