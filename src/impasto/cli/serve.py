"""`impasto serve` and `impasto doctor`: the server, and what it would find on this machine."""

import sys
from typing import Any

import click

from impasto.cli.group import F, data_option, load, main, model_options
from impasto.plain import printable
from impasto.settings import Settings


def server_options(command: F) -> F:
    """The options that `serve` takes, and `doctor` so that it looks at what `serve` would find."""
    for option in (
        model_options,
        data_option,
        click.option(
            "--endpoints",
            metavar="MODULE:TABLE",
            multiple=True,
            help="Endpoints of your own; may be given several times.",
        ),
        click.option("--port", type=int, help="Port to listen on (default: 8000); 0 picks a free one."),
        click.option(
            "--host", help="Address to listen on (default: 127.0.0.1). Others than loopback require API keys."
        ),
    ):
        command = option(command)
    return command


def _tree(ctx: click.Context, options: dict[str, Any]) -> Settings:
    return load(
        ctx,
        server_host=options["host"],
        server_port=options["port"],
        server_endpoints=options["endpoints"] or None,
        data=options["data"],
        model_name=options["model"],
        model_device=options["device"],
        model_threads=options["threads"],
    )


@main.command()
@server_options
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

    sys.exit(run(_tree(ctx, options)))


@main.command()
@server_options
@click.pass_context
def doctor(ctx: click.Context, **options: Any) -> None:
    """Look at this machine and say what works, what does not, and what to do about it. Takes the options of serve.

    \b
    Examples:
      impasto doctor
      impasto doctor --host 0.0.0.0 --data /var/lib/impasto
    """
    from impasto.doctor import examine

    checks = examine(_tree(ctx, options))
    for check in checks:
        click.echo(f"{click.style(check.mark, fg=check.colour)} {check.name:<16} {printable(check.found)}")
        if check.remedy:
            click.echo(f"  {'':<16} → {printable(check.remedy)}")
    sys.exit(1 if any(check.state == "problem" for check in checks) else 0)
