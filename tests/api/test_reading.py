"""Lists and searches: bounded in what one call reads, and off the threads that uploads and images need."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

from impasto.api.platform import history
from impasto.api.platform import query as q
from impasto.api.reading import THREADS, Reading
from impasto.store.records import InputFacts


async def test_a_search_reads_a_bounded_number_of_requests_and_says_where_to_go_on():
    kept = [SimpleNamespace(seq=seq) for seq in range(5_000, 0, -1)]
    read: list[int] = []

    def listed(before: int | None, limit: int) -> Any:
        batch = [request for request in kept if before is None or request.seq < before][:limit]
        read.extend(request.seq for request in batch)
        return batch

    def facts(seqs: list[int]) -> dict[int, InputFacts]:
        return {seq: InputFacts("a red heron" if seq == 1_500 else "an apple", 20) for seq in seqs}

    def call(**query: str) -> Any:
        gateway = SimpleNamespace(store=SimpleNamespace(input_facts=facts))
        return SimpleNamespace(request=SimpleNamespace(query_params=query), gateway=gateway)

    cursor, found = {}, []
    for _ in range(10):
        read.clear()
        some, more = history._search(call(**cursor), listed, ["heron", "red"], 51)
        found += [request.seq for request in some]
        assert len(read) <= history.SEARCHED
        if more is None:
            break
        cursor = {"cursor": q.page("items", [], next_=str(more))["next_cursor"]}
    assert found == [1_500]
    assert more is None


async def test_many_searches_take_one_thread_and_leave_one_to_lists():
    reading, release, names = Reading(), threading.Event(), []

    def search() -> None:
        names.append(threading.current_thread().name)
        release.wait(30)

    searches = [asyncio.create_task(reading.search(search)) for _ in range(16)]
    listed = await asyncio.wait_for(reading.run(lambda: "a list"), 30)
    assert (listed, len(names)) == ("a list", 1)
    release.set()
    await asyncio.gather(*searches)
    assert len(names) == 16
    assert len(set(names)) <= THREADS
