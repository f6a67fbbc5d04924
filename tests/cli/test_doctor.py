"""`impasto doctor` says what works and, for what does not, what to do."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from impasto import settings
from impasto.cli import main
from impasto.doctor import Check, examine
from impasto.store.sqlite import SqliteStore


def checks(folder: Path, **flags: object) -> dict[str, Check]:
    tree = settings.load(environment={}, flags={"data": folder, "server.port": 0} | flags)
    return {check.name: check for check in examine(tree)}


def test_a_machine_that_can_serve_has_no_problem(tmp_path: Path):
    found = checks(tmp_path)
    assert [check.name for check in found.values() if check.state == "problem"] == []
    assert "impasto-mini" in found["weights"].found
    assert str(tmp_path) in found["data folder"].found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "name", "state"),
    [
        ({"model.name": "no-such-model"}, "weights", "problem"),
        ({"safety.enabled": False}, "safety", "note"),
        ({"safety.picture_check": "none"}, "safety", "note"),
        ({"server.host": "0.0.0.0"}, "keys", "problem"),
        ({"server.endpoints": ["no_such_module:table"]}, "endpoints", "problem"),
        ({"model.device": "cpu", "model.cuda_graphs": True, "model.fp8": True}, "speed", "note"),
    ],
)
def test_what_is_wrong_comes_with_a_remedy(tmp_path: Path, flags: dict[str, object], name: str, state: str):
    check = checks(tmp_path, **flags)[name]
    assert check.state == state
    assert check.remedy


def test_a_data_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    check = checks(tmp_path / "file" / "data")["data folder"]
    assert (check.state, "--data" in check.remedy) == ("problem", True)


def test_a_broken_database(tmp_path: Path):
    (tmp_path / "impasto.sqlite3").write_bytes(b"this is no database" * 100)
    check = checks(tmp_path)["database"]
    assert (check.state, "backup" in check.remedy) == ("problem", True)


def test_a_database_in_a_folder_of_any_name_is_the_one_that_is_read(tmp_path: Path):
    folder = tmp_path / "a #1 folder? 100%"
    folder.mkdir()
    asyncio.run(made(folder / "impasto.sqlite3"))
    check = checks(folder)["database"]
    assert (check.state, "0 requests kept" in check.found) == ("good", True)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


async def made(path: Path) -> None:
    await (await SqliteStore.open(path)).close()


def test_a_key_that_is_needed_is_looked_for(tmp_path: Path):
    revoked = asyncio.run(with_key(tmp_path / "impasto.sqlite3"))
    assert checks(tmp_path, **{"auth.mode": "keys"})["keys"].state == "good"
    asyncio.run(revoked())
    assert checks(tmp_path, **{"auth.mode": "keys"})["keys"].state == "problem"
    assert checks(tmp_path)["keys"].state == "good"


async def with_key(path: Path) -> Callable[[], Coroutine[Any, Any, None]]:
    """Makes a key; → what revokes it."""
    store = await SqliteStore.open(path)
    key, _ = await store.create_key(alias="ci", scopes=["API"])
    await store.close()

    async def revoke() -> None:
        store = await SqliteStore.open(path)
        await store.revoke_key(key.key_id)
        await store.close()

    return revoke


def test_doctor_takes_every_option_of_serve():
    names = {name: {parameter.name for parameter in main.commands[name].params} for name in ("serve", "doctor")}
    assert names["doctor"] == names["serve"]


def test_a_taken_port(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = checks(tmp_path, **{"server.port": taken.getsockname()[1]})["address"]
    assert (check.state, "--port" in check.remedy) == ("note", True)


def test_what_weights_in_8_bits_rule_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = tmp_path / "g++"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = {"model.device": "cpu", "model.compile": "blocks", "model.weights_dtype": "int8"}
    check = checks(tmp_path, **asked)["speed"]
    assert check.state == "note"
    assert "model.compile: not with" in check.found
    assert "int8" in check.found
    assert check.remedy


def test_what_compiling_costs_is_told_before_and_after_it_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = tmp_path / "g++"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = {"model.device": "cpu", "model.compile": "blocks"}
    assert "not compiled yet" in checks(tmp_path, **asked)["speed"].found
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "cost.txt").write_text("41 s for 4 parts, torch 2.13")
    assert "compiled in 41 s" in checks(tmp_path, **asked)["speed"].found
    compiler.unlink()
    assert "C++ compiler" in checks(tmp_path, **asked)["speed"].found
