"""`impasto serve` and `impasto doctor`: the server, and what it would find on this machine."""

import sys
from typing import Any

import click

from impasto.cli.group import data_option, load, main, model_options


@main.command()
@click.option("--host", help="Address to listen on (default: 127.0.0.1). Others than loopback require API keys.")
@click.option("--port", type=int, help="Port to listen on (default: 8000); 0 picks a free one.")
@click.option(
    "--endpoints", metavar="MODULE:TABLE", multiple=True, help="Endpoints of your own; may be given several times."
)
@data_option
@model_options
@click.pass_context
def serve(ctx: click.Context, **options: Any) -> None:
    """Start the server: fal's HTTP on one port, the model in a child process.

    \b
    Examples:
      impasto serve
      impasto serve --port 9000 --data /var/lib/impasto
      impasto serve --endpoints mine:table
      impasto serve --host 0.0.0.0        (create a key first: impasto keys create)
    """
    from impasto.serve import run

    tree = load(
        ctx,
        server_host=options["host"],
        server_port=options["port"],
        server_endpoints=options["endpoints"] or None,
        data=options["data"],
        model_name=options["model"],
        model_device=options["device"],
        model_threads=options["threads"],
    )
    sys.exit(run(tree))


@main.command()
@data_option
@model_options
@click.pass_context
def doctor(ctx: click.Context, **options: Any) -> None:
    """Look at this machine and say what works, what does not, and what to do about it.

    \b
    Example:
      impasto doctor
    """
    from impasto.doctor import examine

    tree = load(
        ctx,
        data=options["data"],
        model_name=options["model"],
        model_device=options["device"],
        model_threads=options["threads"],
    )
    checks = examine(tree)
    for check in checks:
        click.echo(f"{click.style(check.mark, fg=check.colour)} {check.name:<16} {check.found}")
        if check.remedy:
            click.echo(f"  {'':<16} → {check.remedy}")
    sys.exit(1 if any(check.state == "problem" for check in checks) else 0)
