"""scripts/serve from another folder: the server starts where the caller is."""

import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parents[2]
STAMP = 'mkdir -p .venv/bin && : >".venv/.installed-package-$(cat pyproject.toml constraints/* | cksum | tr " " -)"'


def test_the_server_starts_in_the_caller_s_folder(tmp_path: Path) -> None:
    """In a clone that is installed already, with a program in the server's place that tells where it is."""
    clone, here = tmp_path / "clone", tmp_path / "here"
    here.mkdir()
    shutil.copytree(SOURCES / "scripts", clone / "scripts")
    shutil.copytree(SOURCES / "constraints", clone / "constraints")
    shutil.copy(SOURCES / "pyproject.toml", clone)
    subprocess.run(["bash", "-c", STAMP], cwd=clone, check=True)
    program = clone / ".venv" / "bin" / "impasto"
    program.write_text('#!/bin/sh\npwd -P; echo "$@"\n')
    program.chmod(0o755)
    told = subprocess.run(
        ["../clone/scripts/serve", "--data", "mine"], cwd=here, capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout.splitlines() == [str(here.resolve()), "serve --data mine"]
