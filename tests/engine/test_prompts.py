"""What the cache of read prompts promises: the same bits, nobody else's words, a bound that holds."""

import threading
from dataclasses import dataclass

import pytest

from impasto.engine.prompts import PromptCache, Words


@dataclass(frozen=True)
class Read:
    nbytes: int = 10_000


class Encoder:
    """Counts what it reads."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Read:
        self.times += 1
        return Read()


def words(prompt: str, scope: str = "alice", encoder: str = "flux.1-dev/512") -> Words:
    return Words(scope=scope, encoder=encoder, prompt=prompt)


def test_the_same_words_of_the_same_caller_are_read_once() -> None:
    cache, encoder = PromptCache[Read](1_000_000), Encoder()
    first, hit_first = cache.get(words("a red apple"), encoder)
    again, hit_again = cache.get(words("a red apple"), encoder)
    assert again is first
    assert (hit_first, hit_again, encoder.times) == (False, True, 1)
    assert {name: cache.counters[name] for name in ("hits", "misses", "entries")} == {
        "hits": 1, "misses": 1, "entries": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "other", [words("a red apple", scope="bob"), words("a red apple", encoder="flux.1-schnell/256")]
)
def test_another_callers_words_and_another_encoders_are_read_anew(other: Words) -> None:
    cache, encoder = PromptCache[Read](1_000_000), Encoder()
    cache.get(words("a red apple"), encoder)
    assert cache.get(other, encoder)[1] is False
    assert encoder.times == 2


def test_words_of_nobody_are_never_kept() -> None:
    cache, encoder = PromptCache[Read](1_000_000), Encoder()
    for _ in range(2):
        assert cache.get(words("a red apple", scope=""), encoder)[1] is False
    assert encoder.times == 2
    assert cache.counters["entries"] == 0


def test_zero_bytes_turn_it_off() -> None:
    cache, encoder = PromptCache[Read](0), Encoder()
    for _ in range(2):
        cache.get(words("a red apple"), encoder)
    assert encoder.times == 2


def test_the_bound_in_bytes_holds_and_the_least_recently_used_go() -> None:
    size = words("a").nbytes + Read().nbytes
    cache, encoder = PromptCache[Read](3 * size), Encoder()
    for prompt in "abc":
        cache.get(words(prompt), encoder)
    cache.get(words("a"), encoder)  # used again: b is now the oldest
    cache.get(words("d"), encoder)
    assert cache.counters["bytes"] == 3 * size
    assert [cache.get(words(prompt), encoder)[1] for prompt in "acd"] == [True, True, True]
    assert cache.get(words("b"), encoder)[1] is False


def test_what_is_larger_than_the_bound_pushes_nothing_out() -> None:
    cache, encoder = PromptCache[Read](20_000), Encoder()
    cache.get(words("small"), encoder)
    cache.get(words("large"), lambda: Read(1_000_000))
    assert cache.get(words("small"), encoder)[1] is True


def test_clearing_gives_everything_back() -> None:
    cache, encoder = PromptCache[Read](1_000_000), Encoder()
    cache.get(words("a red apple"), encoder)
    cache.clear()
    assert (cache.counters["entries"], cache.counters["bytes"]) == (0, 0)


def test_many_threads_leave_the_books_in_order() -> None:
    size = words("00").nbytes + Read().nbytes
    cache, encoder = PromptCache[Read](5 * size), Encoder()

    def use(start: int) -> None:
        for number in range(300):
            cache.get(words(f"{(start + number * 7) % 20:02}"), encoder)

    threads = [threading.Thread(target=use, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = cache.counters
    assert counters["hits"] + counters["misses"] == 1200
    assert counters["bytes"] == counters["entries"] * size <= 5 * size
