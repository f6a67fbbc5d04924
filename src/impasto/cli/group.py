"""What all commands share: the group they belong to, options that several have, and how flags become settings.

Errors of ours are one line on stderr here, and an exit status.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from impasto import __version__, settings
from impasto.errors import ConfigError, ImpastoError
from impasto.terminal import say

F = TypeVar("F", bound=Callable[..., Any])


class ImpastoGroup(click.Group):
    """Turns our errors, and the system's, into one line on stderr and exit status 2 (settings) or 1 (anything else)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            say(f"impasto: {error.message}", err=True)
            ctx.exit(2)
        except ImpastoError as error:
            say(f"impasto: {error.message}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            raise  # nobody reads any more, and click ends without a word
        except OSError as error:  # a full disk, a folder of somebody else
            place = error.filename2 or error.filename
            say(f"impasto: {'' if place is None else f'{place}: '}{error.strerror or error}", err=True)
            ctx.exit(1)


@click.group(cls=ImpastoGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="impasto")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="IMPASTO_CONFIG",
    help="Settings file (default: impasto.toml of the current folder, when there is one).",
)
@click.pass_context
def main(ctx: click.Context, config: Path | None) -> None:
    """FLUX text-to-image on your own machines, behind fal.ai's wire protocol.

    \b
    Start a server and run a program written for fal against it, unchanged:
      impasto serve
      impasto exec -- python app.py
    """
    ctx.obj = config


def model_options(command: F) -> F:
    """The options of whoever loads a model."""
    for option in (
        click.option("--threads", type=int, help="CPU threads of the model; 0: its own choice."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where the model runs."),
        click.option("--model", metavar="NAME|PATH", help="Model to use (default: impasto-mini, the embedded one)."),
    ):
        command = option(command)
    return command


def data_option(command: F) -> F:
    return click.option(
        "--data", metavar="DIR", help="Folder of the database, the files and the keys (default: impasto-data)."
    )(command)


def say_none(what: str) -> None:
    """That a list is empty, to a person; a program sees it by itself."""
    if sys.stderr.isatty():
        say(f"no {what}", err=True)


def load(ctx: click.Context, **flags: Any) -> settings.Settings:
    """The settings tree, flags on top; `server_port` means server.port."""
    return settings.load(file=ctx.obj, flags={key.replace("_", ".", 1): value for key, value in flags.items()})
