"""Every command has help with an example; mistakes end in one line that names the remedy."""

import subprocess
import sys
from collections.abc import Iterator

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
