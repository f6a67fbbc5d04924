"""`impasto backup`: a copy of the data folder that a server can go on with."""

from pathlib import Path

import click

from impasto.cli.group import data_option, load, main, say


@main.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@data_option
@click.pass_context
def backup(ctx: click.Context, folder: Path, data: str | None) -> None:
    """Copy the data folder to DIR, new or empty, beside a running server or without one.

    Database, its secrets and all files; on the same disk files are hard links, which take no room. Not copied: weights,
    caches and uploads on their way. To restore, copy DIR to where the server's data folder was.

    \b
    Example:
      impasto backup /backup/monday --data /var/lib/impasto
    """
    from impasto.backup import back_up

    say(back_up(load(ctx, data=data), folder))
