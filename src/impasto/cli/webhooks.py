"""`impasto webhooks`: the keys that sign webhooks."""

import asyncio

import click

from impasto.cli.group import data_option, load, main, say, say_none


@main.group()
def webhooks() -> None:
    """List and rotate the keys that sign webhooks."""


@webhooks.command("keys")
@data_option
@click.pass_context
def webhooks_keys(ctx: click.Context, data: str | None) -> None:
    """List the published signing keys: id, since when they sign, until when they are published.

    \b
    Example:
      impasto webhooks keys
    """
    from impasto.serve import open_store

    async def read() -> None:
        store = await open_store(load(ctx, data=data), make=False)
        try:
            found = store.signing_keys()
            for key in found:
                until = "" if key.retire_at is None else f"  published until {_date(key.retire_at)}"
                say(f"{key.kid}  signs from {_date(key.active_from)}{until}")
            if not found:
                say_none("signing keys yet: the server's first start makes one")
        finally:
            await store.close()

    asyncio.run(read())


@webhooks.command("rotate-key")
@click.option(
    "--now", "at_once", is_flag=True, help="A key leaked: the new one signs at once, the others are withdrawn."
)
@data_option
@click.pass_context
def webhooks_rotate_key(ctx: click.Context, at_once: bool, data: str | None) -> None:
    """Make a new signing key; receivers see it for two days before it signs (webhooks.key_overlap_hours).

    \b
    Examples:
      impasto webhooks rotate-key
      impasto webhooks rotate-key --now
    """
    from impasto.serve import open_store

    async def rotate() -> str:
        tree = load(ctx, data=data)
        store = await open_store(tree, make=False)
        try:
            key = await store.rotate_signing_key(overlap=0 if at_once else tree.webhooks.key_overlap_hours * 3600)
            return f"{key.kid}  signs from {_date(key.active_from)}"
        finally:
            await store.close()

    say(asyncio.run(rotate()))


def _date(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
