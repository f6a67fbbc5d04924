"""Every command has help with an example; mistakes end in one line that names the remedy."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from impasto.cli import main


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    ("path", "command"), list(commands(main)), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_explains_itself_with_an_example(path: tuple[str, ...], command: click.Command):
    assert command.help is not None
    assert "impasto " + " ".join(path) in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.name}"


def test_help_imports_nothing_heavy():
    program = "import sys, impasto.cli; print([m for m in ('torch', 'numpy', 'starlette', 'PIL') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_what_the_system_refuses_is_one_line_that_names_the_place(impasto: Callable[..., Any], tmp_path: Path):
    assert impasto("keys", "create", "--data", str(tmp_path / "data")).returncode == 0
    (tmp_path / "file").write_text("")
    ended = impasto("backup", str(tmp_path / "file" / "copy"), "--data", str(tmp_path / "data"))
    assert ended.returncode == 1
    assert ended.stderr == f"impasto: {tmp_path / 'file' / 'copy'}: Not a directory\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path):
    listing = subprocess.Popen(
        [sys.executable, "-m", "impasto.cli", "models", "list", "--data", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    with listing.stderr:
        assert listing.stderr.read() == b""
    assert listing.wait(60) == 1
