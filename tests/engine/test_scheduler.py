"""Who steps next: the rules of engine.scheduler, with plain strings for jobs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto.engine.scheduler import Scheduler

STEPS = {"s": 3, "l": 400, "m": 10}  # by the first letter of the job's name: short, long, medium


def run(scheduler: Scheduler, turns: int, made: dict[tuple[str, int], int] | None = None) -> list[str]:
    """The jobs of the next turns. Samples end when their steps are `made`, as the engine does it."""
    order: list[str] = []
    made = {} if made is None else made
    for _ in range(turns):
        turn = scheduler.next()
        if turn is None:
            break
        order.append(turn[0])
        made[turn] = made.get(turn, 0) + 1
        if made[turn] == STEPS[turn[0][0]]:
            scheduler.end(*turn)
    return order


def add(scheduler: Scheduler, name: str, *, samples: int = 1, priority: int = 0, cost: int = 1) -> None:
    scheduler.add(name, samples=samples, steps=STEPS[name[0]], cost=cost, priority=priority)


def test_nothing_to_do_is_none() -> None:
    assert Scheduler().next() is None


def test_the_job_with_the_least_work_left_steps_first() -> None:
    scheduler = Scheduler()
    add(scheduler, "long")
    assert run(scheduler, 2) == ["long", "long"]
    add(scheduler, "short")
    assert run(scheduler, 4) == ["short", "short", "short", "long"]


def test_equal_jobs_finish_in_order_of_arrival() -> None:
    scheduler = Scheduler(patience=100)
    add(scheduler, "m1")
    add(scheduler, "m2")
    assert run(scheduler, 20) == ["m1"] * 10 + ["m2"] * 10


def test_a_step_of_a_large_picture_counts_for_more() -> None:
    scheduler = Scheduler()
    add(scheduler, "short-but-large", cost=100)
    add(scheduler, "medium", cost=1)
    assert run(scheduler, 1) == ["medium"]


def test_low_priority_waits_for_normal_even_when_shorter() -> None:
    scheduler = Scheduler(patience=1000)
    add(scheduler, "short-low", priority=1)
    add(scheduler, "long-normal")
    assert run(scheduler, 403) == ["long-normal"] * 400 + ["short-low"] * 3


def test_asking_for_more_images_buys_no_larger_share() -> None:
    scheduler = Scheduler(patience=100)
    add(scheduler, "many", samples=4)  # four samples of ten steps
    add(scheduler, "m")
    assert run(scheduler, 10) == ["m"] * 10


def test_a_stream_of_short_jobs_cannot_starve_a_long_one() -> None:
    scheduler = Scheduler(patience=8)
    add(scheduler, "long")
    order: list[str] = []
    made: dict[tuple[str, int], int] = {}
    for turn in range(300):
        if len(scheduler) == 1:
            add(scheduler, f"short-{turn}")
        order += run(scheduler, 1, made)
    turns = [place for place, name in enumerate(order) if name == "long"]
    assert turns[0] == 8, "it is passed over eight times, then it steps"
    assert {after - before for before, after in pairwise(turns)} == {9}


def test_a_small_job_waits_for_at_most_one_large_step() -> None:
    """In steps of 512 × 512 pixels: three requests of four images of 2048 × 2048 are 16 times as much a step."""
    scheduler = Scheduler()
    for name in ("large-1", "large-2", "large-3"):
        scheduler.add(name, samples=4, steps=50, cost=2048 * 2048)
    for _ in range(37):
        assert scheduler.next() is not None
    scheduler.add("small", samples=1, steps=28, cost=512 * 512)
    order = [scheduler.next() for _ in range(40)]
    before = order.index(("small", 0))
    assert before <= 2, "those that have waited for long go first, once"
    assert order[before : before + 28].count(("small", 0)) >= 26


def test_low_priority_is_not_starved_by_normal_either() -> None:
    scheduler = Scheduler(patience=8)
    add(scheduler, "long-low", priority=1)
    add(scheduler, "long-normal")
    assert "long-low" in run(scheduler, 9)


def test_one_sample_of_a_job_is_finished_before_the_next_one_starts() -> None:
    scheduler = Scheduler()
    scheduler.add("job", samples=3, steps=2, cost=1)
    samples: list[int] = []
    while (turn := scheduler.next()) is not None:
        samples.append(turn[1])
        if samples.count(turn[1]) == 2:
            scheduler.end(*turn)
    assert samples == [0, 0, 1, 1, 2, 2]


def test_a_removed_job_steps_no_more() -> None:
    scheduler = Scheduler()
    add(scheduler, "long")
    add(scheduler, "short")
    scheduler.remove("short")
    scheduler.remove("never-there")
    assert run(scheduler, 2) == ["long", "long"]
    assert len(scheduler) == 1


def test_a_pipeline_that_makes_more_steps_than_announced_still_ends() -> None:
    scheduler = Scheduler()
    scheduler.add("job", samples=1, steps=1, cost=1)
    assert [scheduler.next() for _ in range(3)] == [("job", 0)] * 3
    scheduler.end("job", 0)
    assert scheduler.next() is None


def test_a_job_cannot_be_added_twice() -> None:
    scheduler = Scheduler()
    add(scheduler, "m")
    with pytest.raises(ValueError, match="scheduled already"):
        add(scheduler, "m")


Shape = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 1000), st.integers(0, 1))


@given(shapes=st.lists(Shape, min_size=1, max_size=8), patience=st.integers(1, 20))
def test_every_step_of_every_job_is_made_and_nobody_waits_for_longer_than_promised(
    shapes: list[tuple[int, int, int, int]], patience: int
) -> None:
    scheduler = Scheduler(patience=patience)
    left: dict[tuple[str, int], int] = {}
    for number, (samples, steps, cost, priority) in enumerate(shapes):
        scheduler.add(str(number), samples=samples, steps=steps, cost=cost, priority=priority)
        left |= {(str(number), sample): steps for sample in range(samples)}
    waited = dict.fromkeys((str(number) for number in range(len(shapes))), 0)
    costs = {str(number): shape[2] for number, shape in enumerate(shapes)}
    while (turn := scheduler.next()) is not None:
        for name in waited:
            waited[name] += costs[turn[0]]
        waited[turn[0]] = 0
        left[turn] -= 1
        if left[turn] == 0:
            scheduler.end(*turn)
        if not any(steps for (name, _), steps in left.items() if name == turn[0]):
            waited.pop(turn[0])
        for name, work in waited.items():  # as much as this many steps of its own, and of each other's two
            assert work <= (patience + len(shapes)) * costs[name] + 2 * sum(costs.values())
    assert set(left.values()) == {0}
