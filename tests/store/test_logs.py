"""Log lines: in order, of all attempts, bounded."""

from impasto.store.records import LogLine

STAMP = "2026-11-22T12:00:00.000000"


async def test_lines_come_back_in_order_and_as_they_were(store, running):
    request = await running()
    lines = [
        LogLine(STAMP, "one", "DEBUG", "USER", {"step": "1"}),
        LogLine(STAMP, "two \N{BIRD}\n", "ERROR"),
        LogLine(STAMP, "three"),
    ]
    assert await store.progress(request.request_id, request.lease, lines[:1])
    assert await store.progress(request.request_id, request.lease, lines[1:])
    assert store.logs(request.request_id) == lines
    assert store.logs(request.request_id, after=2) == lines[2:]
    assert store.logs(request.request_id, after=3) == []


async def test_progress_without_lines_tells_whether_the_lease_holds(store, running, finished):
    held, done = await running(), await finished()
    assert await store.progress(held.request_id, held.lease, [])
    assert not await store.progress(done.request_id, done.lease, [])


async def test_a_line_that_is_not_text_does_not_stop_the_others(store, running):
    request = await running()
    await store.progress(request.request_id, request.lease, [LogLine(STAMP, "half \ud800"), LogLine(STAMP, "whole")])
    assert [line.message for line in store.logs(request.request_id)] == ["half ?", "whole"]


async def test_a_thousand_lines_is_the_end_and_the_last_one_says_so(store, running):
    request = await running()
    for start in range(0, 1200, 100):
        lines = [LogLine(STAMP, f"line {start + n}") for n in range(100)]
        assert await store.progress(request.request_id, request.lease, lines)
    kept = store.logs(request.request_id)
    assert len(kept) == 1000
    assert [line.message for line in kept[:999]] == [f"line {n}" for n in range(999)]
    assert "limit" in kept[999].message
    await store.requeue(request.request_id, request.lease, crashed=True, reason="gone")
    assert store.logs(request.request_id) == kept


async def test_256_kilobytes_is_the_end_and_the_last_one_says_so(store, running):
    request = await running()
    line = LogLine(STAMP, "\N{BIRD}" * 250)  # 1,000 bytes
    for _ in range(30):
        assert await store.progress(request.request_id, request.lease, [line] * 10)
    kept = store.logs(request.request_id)
    assert sum(len(each.message.encode()) for each in kept) <= 256 * 1024
    assert len(kept) == 263, "262 lines of 1,000 bytes fit beside the notice"
    assert "limit" in kept[-1].message


async def test_one_line_too_large_is_replaced_by_the_notice(store, running):
    request = await running()
    await store.progress(request.request_id, request.lease, [LogLine(STAMP, "x" * 300_000), LogLine(STAMP, "after")])
    (only,) = store.logs(request.request_id)
    assert "limit" in only.message
