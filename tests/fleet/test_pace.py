"""How fast a runner works is told from its steps and its work, and from no pause between them."""

from impasto.fleet.pace import REMEMBERED, Pace


def test_steps_a_second_are_those_of_the_drawing_not_of_the_pauses():
    pace = Pace()
    assert pace.steps_per_second is None
    for start in (0.0, 1000.0):
        pace.begin(start)
        for n in range(5):
            pace.step(start + 0.5 * n)
        pace.pause(start + 4)
    assert pace.steps_per_second == 2


def test_one_slow_step_does_not_make_a_slow_runner_and_old_ones_are_forgotten():
    pace = Pace()
    now = 0.0
    for interval in (1.0, 1.0, 90.0, 1.0):
        pace.step(now := now + interval)
    assert pace.steps_per_second == 1
    for _ in range(REMEMBERED):
        pace.step(now := now + 0.25)
    assert pace.steps_per_second == 4


def test_work_counts_once_however_many_requests_are_in_hand():
    pace = Pace()
    pace.begin(10)
    pace.begin(12)  # a second request beside the first
    assert pace.seconds(15) == 5
    pace.pause(16)
    pace.pause(20)
    assert pace.seconds(30) == 6
    pace.begin(40)
    assert pace.seconds(41) == 7
