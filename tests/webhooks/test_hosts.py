"""What one host gets: slots, a rate, and one try a minute when it is dead."""

import pytest

from impasto.webhooks.hosts import DEAD_AFTER, FORGET_SECONDS, PROBE_SECONDS, Hosts


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hosts(clock: Clock) -> Hosts:
    return Hosts(slots=16, rate=50, clock=clock)


def die(hosts: Hosts, name: str = "a") -> None:
    for _ in range(DEAD_AFTER):
        hosts.began(name)
        hosts.ended(name, answered=False)


def test_slots_are_taken_and_given_back(hosts):
    assert hosts.free("a") == 16
    for _ in range(16):
        hosts.began("a")
    assert (hosts.free("a"), hosts.free("b")) == (0, 16)
    hosts.ended("a", answered=True)
    assert hosts.free("a") == 1


def test_no_more_than_the_rate_goes_to_one_host(hosts, clock):
    begun = 0
    for _ in range(1000):  # one second, in thousandths
        while hosts.free("a"):
            hosts.began("a")
            hosts.ended("a", answered=True)
            begun += 1
        clock.now += 0.001
    assert 95 <= begun <= 100  # a full bucket, and one second's worth


def test_a_dead_host_gets_one_try_a_minute_until_it_answers(hosts, clock):
    die(hosts)
    assert hosts.is_dead("a")
    assert hosts.free("a") == 0
    clock.now += PROBE_SECONDS - 1
    assert hosts.free("a") == 0
    clock.now += 1
    assert hosts.free("a") == 1
    hosts.began("a")
    assert hosts.free("a") == 0
    hosts.ended("a", answered=False)
    assert hosts.free("a") == 0
    clock.now += PROBE_SECONDS
    hosts.began("a")
    hosts.ended("a", answered=True)
    assert not hosts.is_dead("a")
    assert hosts.free("a") == 16


def test_http_errors_are_answers_and_close_no_host(hosts):
    for _ in range(5 * DEAD_AFTER):
        hosts.began("a")
        hosts.ended("a", answered=True)
    assert not hosts.is_dead("a")


def test_one_answer_in_between_keeps_it_alive(hosts):
    for number in range(3 * DEAD_AFTER):
        hosts.began("a")
        hosts.ended("a", answered=number % (DEAD_AFTER - 1) == 0)
    assert not hosts.is_dead("a")


def test_quiet_hosts_are_forgotten_dead_ones_later(hosts, clock):
    hosts.began("busy")
    hosts.began("quiet")
    hosts.ended("quiet", answered=True)
    die(hosts, "dead")
    clock.now += 10
    hosts.forget()
    assert set(hosts._hosts) == {"busy", "dead"}
    clock.now += FORGET_SECONDS
    hosts.forget()
    assert set(hosts._hosts) == {"busy"}
