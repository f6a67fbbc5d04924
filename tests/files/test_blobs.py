"""Blobs: bytes survive, names cannot be guessed, and nothing but a token becomes a path."""

import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from impasto.errors import NotFound
from impasto.files.blobs import BlobStore


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs(tmp_path, clock) -> BlobStore:
    return BlobStore(tmp_path / "files", clock=clock)


def content(blobs: BlobStore, token: str) -> bytes:
    with blobs.open(token) as file:
        return file.read()


@pytest.mark.parametrize("data", [b"", b"\x00" * 10, os.urandom(3_000_000)])
def test_the_bytes_come_back(blobs, data):
    token = blobs.put(data, media_type="image/png")
    assert content(blobs, token) == data
    assert blobs.path(token).read_bytes() == data


def test_they_outlive_the_object_and_are_the_owners_only(tmp_path):
    token = BlobStore(tmp_path / "files").put(b"bytes", media_type="image/png")
    assert content(BlobStore(tmp_path / "files"), token) == b"bytes"
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [
        ("image/jpeg", "jpeg"),
        ("image/png", "png"),
        ("image/webp", "webp"),
        ("IMAGE/PNG; q=1", "png"),
        ("text/plain; charset=utf-8", "txt"),
        ("text/html", "bin"),
        ("image/svg+xml", "bin"),
        ("application/x-../../evil", "bin"),
        ("", "bin"),
    ],
)
def test_the_token_is_the_url_path_that_fal_uses(blobs, media_type, extension):
    token = blobs.put(b"x", media_type=media_type)
    assert re.fullmatch(rf"b/[0-9a-f]{{8}}/[A-Za-z0-9_-]{{22}}\.{extension}", token)
    assert content(blobs, token) == b"x"


def test_tokens_are_unlike_each_other(blobs):
    names = [blobs.put(b"same", media_type="image/png").rpartition("/")[2] for _ in range(200)]
    assert len(set(names)) == 200
    # 128 random bits: at each place many different characters, or the place carries no chance.
    assert all(len({name[place] for name in names}) > 20 for place in range(21))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "b/00000000/../../../etc/passwd",
        "b/00000000/..%2f..%2fetc%2fpasswd",
        "b/00000000/abcdefghijklmnopqrst/..png",
        "b/00000000/abcdefghijklmnopqrstuv.png/",
        "b/00000000/abcdefghijklmnopqrstuv.png\n",
        "b/00000000/abcdefghijklmnopqrstuv.png\x00",
        "b/00000000/abcdefghijklmnopqrstuv",
        "b/00000000/abcdefghijklmnopqrstuv.PNG",
        "b/00000000/abcdefghijklmnopqrstu.png",
        "b/0000000g/abcdefghijklmnopqrstuv.png",
        "b/٠٠٠٠٠٠٠٠/abcdefghijklmnopqrstuv.png",
        "b\\00000000\\abcdefghijklmnopqrstuv.png",
        "tmp/abcdefghijklmnopqrstuv",
        "//b/00000000/abcdefghijklmnopqrstuv.png",
        "./b/00000000/abcdefghijklmnopqrstuv.png",
        "b/00000000/..................png",
    ],
)
def test_what_is_not_a_token_is_refused_by_every_verb(blobs, token):
    for verb in (blobs.path, blobs.open, blobs.delete):
        with pytest.raises(NotFound):
            verb(token)


def test_a_token_of_nothing_is_not_found(blobs):
    token = "b/00000000/abcdefghijklmnopqrstuv.png"
    with pytest.raises(NotFound):
        blobs.open(token)
    assert blobs.delete(token) is False
    assert not blobs.path(token).exists()


def test_delete_deletes_once_and_leaves_the_neighbours(blobs):
    first, second = (blobs.put(b"x", media_type="image/png") for _ in range(2))
    assert blobs.delete(first) is True
    assert blobs.delete(first) is False
    with pytest.raises(NotFound):
        blobs.open(first)
    assert content(blobs, second) == b"x"


def test_an_empty_hour_folder_goes_once_its_hour_is_over(blobs, clock):
    now, old = blobs.put(b"x", media_type="image/png"), blobs.put(b"x", media_type="image/png")
    folder = blobs.path(now).parent
    blobs.delete(now)
    clock.now += 3600
    blobs.delete(old)
    assert not folder.exists()
    assert content(blobs, blobs.put(b"y", media_type="image/png")) == b"y"


def test_an_hour_folder_that_is_emptied_during_a_slow_write_is_there_for_it(blobs, clock, monkeypatch):
    old, token = blobs.put(b"old", media_type="image/png"), blobs.new_token("image/png")
    clock.now += 3600
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            blobs.delete(old)  # another thread's, while this one waits for the disk

    monkeypatch.setattr(os, "fsync", slow)
    assert blobs.put(b"new", media_type="image/png", token=token) == token
    assert content(blobs, token) == b"new"


def test_the_second_of_a_new_hour_waits_for_the_folders_name_too(blobs, monkeypatch):
    """It must not return on the strength of a folder whose maker has not synced it yet."""
    fsync, made, go = os.fsync, threading.Event(), threading.Event()
    top = (blobs._folder / "b").stat().st_ino
    synced: list[str] = []

    def seen(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == top:
            if threading.current_thread() is not threading.main_thread():
                made.set()
                go.wait(60)
            synced.append(threading.current_thread().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(blobs.put, b"first", media_type="image/png")
        assert made.wait(60)
        blobs.put(b"second", media_type="image/png")
        assert synced == [threading.main_thread().name]
        go.set()
        first.result()


def test_a_blob_is_synced_before_it_has_its_name_and_its_folder_after(blobs, monkeypatch):
    """The order is the guarantee: data, name, the folder that holds the name, the folder that holds a new folder."""
    events: list[str | int] = []  # a synced folder by its inode
    fsync, link = os.fsync, os.link

    def seen_fsync(descriptor: int) -> None:
        about = os.fstat(descriptor)
        events.append(about.st_ino if stat.S_ISDIR(about.st_mode) else f"sync {about.st_size} bytes")
        fsync(descriptor)

    def seen_link(source, target) -> None:
        events.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    folder = blobs.path(blobs.put(b"12345", media_type="image/png")).parent
    assert events == ["sync 5 bytes", "name", folder.stat().st_ino, folder.parent.stat().st_ino]
    events.clear()
    blobs.put(b"123456", media_type="image/png")
    assert events == ["sync 6 bytes", "name", folder.stat().st_ino]


def test_a_promised_token_takes_one_content(blobs):
    token = blobs.new_token("image/png")
    assert blobs.put(b"first", media_type="image/png", token=token) == token
    with pytest.raises(FileExistsError):
        blobs.put(b"second", media_type="image/png", token=token)
    assert content(blobs, token) == b"first"
    assert list((blobs._folder / "tmp").iterdir()) == []


def test_the_same_bytes_may_come_again(blobs):
    """The first writer may have died between the blob and its row; the client then sends them once more."""
    token = blobs.put(b"first", media_type="image/png", token=blobs.new_token("image/png"))
    assert blobs.put(b"first", media_type="image/png", token=token) == token
    assert content(blobs, token) == b"first"


def test_of_many_writers_of_one_token_one_wins_whole(blobs):
    token = blobs.new_token("image/png")

    def write(number: int) -> bytes | None:
        data = bytes([number]) * 50_000
        try:
            blobs.put(data, media_type="image/png", token=token)
        except FileExistsError:
            return None
        return data

    with ThreadPoolExecutor(8) as pool:
        winners = [data for data in pool.map(write, range(16)) if data is not None]
    assert winners == [content(blobs, token)]


@pytest.mark.parametrize("token", ["../x", "b/0/x.png", "tmp/x"])
def test_nothing_is_written_under_what_is_not_a_token(blobs, token):
    with pytest.raises(NotFound):
        blobs.put(b"x", media_type="image/png", token=token)


def test_a_failed_write_leaves_nothing(blobs, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        blobs.put(b"x" * 100, media_type="image/png")
    assert [path for path in blobs._folder.rglob("*") if path.is_file()] == []


def test_many_threads_write_at_once(blobs):
    payloads = [os.urandom(1000) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda data: blobs.put(data, media_type="image/png"), payloads))
    assert [content(blobs, token) for token in tokens] == payloads


def test_orphans_are_old_blobs_without_a_row(blobs, clock):
    known, orphan, young = (blobs.put(b"x", media_type="image/png") for _ in range(3))
    for token in (known, orphan):
        os.utime(blobs.path(token), (clock.now - 90_000, clock.now - 90_000))
    os.utime(blobs.path(young), (clock.now - 1000, clock.now - 1000))
    (blobs._folder / "b" / "00000000").mkdir()
    stranger = blobs._folder / "b" / "00000000" / "notes.md"
    stranger.write_text("not ours")
    os.utime(stranger, (0, 0))
    assert [*chain.from_iterable(blobs.orphans({known}.intersection))] == [orphan]
    assert sorted(chain.from_iterable(blobs.orphans({known}.intersection, older_than=500))) == sorted([orphan, young])


def test_orphans_are_looked_up_in_pieces_and_only_unknown_ones_are_examined(blobs, clock, monkeypatch):
    monkeypatch.setattr("impasto.files.blobs.PIECE", 10)
    tokens = [blobs.put(b"x", media_type="image/png") for _ in range(35)]
    for token in tokens:
        os.utime(blobs.path(token), (clock.now - 90_000, clock.now - 90_000))
    asked: list[list[str]] = []

    def known(piece):
        asked.append(list(piece))
        return [token for token in piece if token != tokens[7]]

    found = list(blobs.orphans(known))
    assert [len(piece) for piece in asked] == [10, 10, 10, 5]
    assert sorted(chain.from_iterable(asked)) == sorted(tokens)
    assert sorted(map(len, found)) == [0, 0, 0, 1], "the caller may rest between two pieces"
    assert [*chain.from_iterable(found)] == [tokens[7]]


def test_drafts_of_a_killed_process_go_after_a_day(blobs, clock):
    for name, age in (("old", 90_000), ("young", 60)):
        draft = blobs._folder / "tmp" / name
        draft.write_bytes(b"half")
        os.utime(draft, (clock.now - age, clock.now - age))
    assert blobs.delete_drafts() == 1
    assert [path.name for path in (blobs._folder / "tmp").iterdir()] == ["young"]
