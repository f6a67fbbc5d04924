"""`impasto keys`: who may ask the server."""

import asyncio

import click

from impasto.cli.group import data_option, load, main, say, say_none
from impasto.plain import printable


@main.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command("create")
@click.argument("alias", default="default")
@click.option(
    "--scope", type=click.Choice(["API", "ADMIN"]), default="API", show_default=True, help="What the key may do."
)
@data_option
@click.pass_context
def keys_create(ctx: click.Context, alias: str, scope: str, data: str | None) -> None:
    """Create a key and print it, once: only its hash is kept.

    \b
    Example:
      export FAL_KEY="$(impasto keys create ci)"
    """
    from impasto.serve import open_store

    async def create() -> str:
        store = await open_store(load(ctx, data=data))
        try:
            return (await store.create_key(alias=alias, scopes=[scope]))[1]
        finally:
            await store.close()

    say(asyncio.run(create()))


@keys.command("list")
@data_option
@click.pass_context
def keys_list(ctx: click.Context, data: str | None) -> None:
    """List the keys: id, alias, scope, state.

    \b
    Example:
      impasto keys list
    """
    from datetime import UTC, datetime

    from impasto.serve import open_store

    async def read() -> None:
        store = await open_store(load(ctx, data=data), make=False)
        try:
            found = store.keys()
            for key in found:
                created = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d %H:%M")
                state = "live" if key.revoked_at is None else "revoked"
                say(f"{key.key_id}  {','.join(key.scopes):<6} {state:<8} {created}  {printable(key.alias)}")
            if not found:
                say_none("keys yet: `impasto keys create NAME` makes one")
        finally:
            await store.close()

    asyncio.run(read())


@keys.command("revoke")
@click.argument("key_id")
@data_option
@click.pass_context
def keys_revoke(ctx: click.Context, key_id: str, data: str | None) -> None:
    """Revoke a key: it stops working at once.

    \b
    Example:
      impasto keys revoke 7d9f2a34-…
    """
    from impasto.serve import open_store

    async def revoke() -> bool:
        store = await open_store(load(ctx, data=data), make=False)
        try:
            return await store.revoke_key(key_id.partition(":")[0])
        finally:
            await store.close()

    if not asyncio.run(revoke()):
        raise click.UsageError(f"no live key {key_id!r}; `impasto keys list` shows them", ctx)
    say(f"revoked {key_id.partition(':')[0]}")
