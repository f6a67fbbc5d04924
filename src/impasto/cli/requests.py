"""`impasto requests`: what was sent to the server."""

import asyncio
from typing import Any

import click

from impasto.cli.group import data_option, load, main, say, say_none


@main.group()
def requests() -> None:
    """List, show and cancel requests, beside a running server or without one."""


@requests.command("list")
@click.option("--endpoint", metavar="ID", help="Only those of one endpoint.")
@click.option("--key", "key_id", metavar="KEY_ID", help="Only those of one key.")
@click.option("--status", type=click.Choice(["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]), help="Only those in one status.")
@click.option("--before", metavar="REQUEST_ID", help="The next page: only those older than this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@data_option
@click.pass_context
def requests_list(ctx: click.Context, data: str | None, **filters: Any) -> None:
    """List requests, newest first: id, status, HTTP status, seconds, time, endpoint, key.

    \b
    Examples:
      impasto requests list
      impasto requests list --status IN_PROGRESS --endpoint fal-ai/flux-pro
    """
    from impasto.requests import lines

    found = asyncio.run(lines(load(ctx, data=data), **filters))
    for line in found:
        say(line)
    if not found:
        narrowed = any(value is not None for name, value in filters.items() if name != "limit")
        say_none("such requests" if narrowed else "requests yet")


@requests.command("show")
@click.argument("request_id")
@data_option
@click.pass_context
def requests_show(ctx: click.Context, request_id: str, data: str | None) -> None:
    """Show one request: its record, input, logs and result.

    \b
    Example:
      impasto requests show 764cabcf-b745-4b3e-ae38-1200304cf45b
    """
    from impasto.requests import details

    found = asyncio.run(details(load(ctx, data=data), request_id))
    if found is None:
        raise click.UsageError(f"no request {request_id!r}; `impasto requests list` shows them", ctx)
    say(found)


@requests.command("cancel")
@click.argument("request_id")
@data_option
@click.pass_context
def requests_cancel(ctx: click.Context, request_id: str, data: str | None) -> None:
    """Cancel one request: a waiting one ends at once, a running one at its runner's next beat.

    \b
    Example:
      impasto requests cancel 764cabcf-b745-4b3e-ae38-1200304cf45b
    """
    from impasto.requests import cancel

    word = asyncio.run(cancel(load(ctx, data=data), request_id))
    if word == "NOT_FOUND":
        raise click.UsageError(f"no request {request_id!r}; `impasto requests list` shows them", ctx)
    say(f"{word.lower().replace('_', ' ')}: {request_id}")
