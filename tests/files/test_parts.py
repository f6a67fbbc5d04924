"""Parts of large uploads: joined as listed, never in memory at once, and gone when nobody completes them."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from impasto.errors import BadRequest
from impasto.files.blobs import BlobStore
from impasto.files.parts import STALE, Parts, Usage

KEY, TOKEN = "key", "b/00000000/abcdefghijklmnopqrstuv.png"


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "uploads")


def put(parts: Parts, number: int, data: bytes, *, key: str = KEY, token: str = TOKEN) -> str:
    with parts.draft(key, token, number) as draft:
        draft.write(data)
        return parts.keep(draft)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]


def test_they_are_joined_by_number_and_a_later_try_replaces_an_earlier_one(parts, tmp_path):
    put(parts, 2, b"wrong")
    listed = [(number, put(parts, number, data)) for number, data in ((3, b"c" * 3_000_000), (1, b"a"), (2, b"b"))]
    with BlobStore(tmp_path / "files").draft() as draft:
        parts.join(KEY, TOKEN, listed, into=draft)
        draft.flush(sync=False)
        assert draft.path.read_bytes() == b"a" + b"b" + b"c" * 3_000_000
        assert draft.size == 3_000_002


def test_a_part_that_was_never_finished_leaves_nothing(parts, tmp_path):
    with contextlib.suppress(RuntimeError), parts.draft(KEY, TOKEN, 1) as draft:
        draft.write(b"half")
        raise RuntimeError
    assert files(tmp_path) == []
    assert parts.pending(KEY) == 0


def test_what_waits_is_counted_by_upload_and_by_key(parts):
    put(parts, 1, b"12345")
    put(parts, 2, b"1")
    put(parts, 1, b"1234", token="other")
    put(parts, 1, b"123", key="other")
    assert (parts.pending(KEY, TOKEN), parts.pending(KEY), parts.pending("other"), parts.pending("")) == (6, 10, 3, 0)
    assert (parts.size(KEY, TOKEN, 1), parts.size(KEY, TOKEN, 9)) == (5, 0)
    parts.drop(KEY, TOKEN)
    assert parts.pending(KEY) == 4


def test_names_from_the_wire_never_become_paths(parts, tmp_path):
    put(parts, 1, b"x", key="../../key", token="../../../escape")
    (path,) = files(tmp_path)
    assert path.parent.parent.parent == tmp_path / "uploads"
    for number in (-1, 0, 10_001, 10**4000):
        with pytest.raises(BadRequest, match="part number"):
            parts.draft(KEY, TOKEN, number)


def test_forgotten_ones_are_thrown_away(parts, tmp_path):
    parts.sweep()
    put(parts, 1, b"old", token="old")
    put(parts, 1, b"young", token="young")
    old = time.time() - STALE - 5
    for folder in (tmp_path / "uploads").glob("*/*"):
        if (folder / "00001").read_bytes() == b"old":
            os.utime(folder, (old, old))
    parts.sweep()
    assert [path.read_bytes() for path in files(tmp_path)] == [b"young"]
    parts.drop(KEY, "young")
    parts.sweep()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_an_upload_begins_while_the_last_other_one_of_its_key_is_completed(parts, tmp_path, monkeypatch):
    mkdir = Path.mkdir
    completing: list[threading.Thread] = []

    def seen(self: Path, *args, **options) -> None:
        mkdir(self, *args, **options)
        if self.parent == tmp_path / "uploads" and not completing:  # the key's folder, empty as yet
            completing.append(threading.Thread(target=parts.drop, args=(KEY, "another")))
            completing[-1].start()
            completing[-1].join(0.2)

    monkeypatch.setattr(Path, "mkdir", seen)
    put(parts, 1, b"data")
    completing[0].join()
    assert parts.pending(KEY) == 4


def test_what_waits_is_counted_although_an_upload_is_completed_meanwhile(parts, tmp_path, monkeypatch):
    for token in "ab":
        put(parts, 1, b"data", token=token)
    (tmp_path / "uploads").rename(tmp_path / "again")  # of which this process has no sums
    parts = Parts(tmp_path / "again")
    scandir, going = os.scandir, parts._of(KEY, "a")

    def seen(path):
        if Path(path) == going:  # its name was listed before it went
            going.rename(tmp_path / "gone")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", seen)
    assert parts.pending(KEY) == 4
    assert not going.exists()


def test_a_part_costs_the_same_however_many_there_are(tmp_path, monkeypatch):
    first = Parts(tmp_path / "uploads")
    for number in range(1, 200):
        put(first, number, b"x")
    walks: list[Path] = []
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": walks.append(Path(path)) or listed(path))
    put(first, 200, b"xy")
    put(first, 200, b"xyz")
    other = Parts(tmp_path / "uploads")  # another one of the same process
    assert (other.usage(KEY).size, other.usage(KEY).files, other.pending(KEY, TOKEN)) == (202, 200, 202)
    assert walks == [], "no folder is read"
    monkeypatch.undo()
    other.drop(KEY, TOKEN)
    assert (first.usage(KEY), files(tmp_path)) == (Usage(0, 0), [])


def test_what_a_former_process_left_is_counted(tmp_path):
    put(Parts(tmp_path / "uploads"), 1, b"12345")
    (tmp_path / "uploads").rename(tmp_path / "again")  # a folder that this process has no sums of
    assert Parts(tmp_path / "again").usage(KEY) == Usage(5, 1)


def test_folders_and_files_are_for_their_owner_only_whatever_is_there_already(tmp_path):
    tmp_path.chmod(0o755)
    before = os.umask(0)
    try:
        put(Parts(tmp_path / "deep" / "uploads"), 1, b"x")
        blobs = BlobStore(tmp_path / "more" / "files")
        token = blobs.put(b"x", media_type="image/png")
    finally:
        os.umask(before)
    made = [path for folder in ("deep", "more") for path in [tmp_path / folder, *(tmp_path / folder).rglob("*")]]
    assert len(made) > 8
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_file()} == {"0o600"}
    assert blobs.path(token).read_bytes() == b"x"
