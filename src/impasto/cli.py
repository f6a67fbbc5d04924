"""The command line: `impasto serve · generate · watch · models · requests · keys · webhooks · doctor · exec · train`.

Settings are built here, once, and passed down. Nothing heavy is imported before a command needs it, so that
`impasto --help` answers at once.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from impasto import __version__, settings
from impasto.errors import ConfigError, ImpastoError, ModelError

F = TypeVar("F", bound=Callable[..., Any])


class ImpastoGroup(click.Group):
    """Turns our errors into one line on stderr and exit status 2 (settings) or 1 (anything else), never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.echo(f"impasto: {error.message}", err=True)
            ctx.exit(2)
        except ImpastoError as error:
            click.echo(f"impasto: {error.message}", err=True)
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
    """The options that `serve`, `generate` and `doctor` share."""
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


def _load(ctx: click.Context, **flags: Any) -> settings.Settings:
    """The settings tree, flags on top; `server_port` means server.port."""
    return settings.load(file=ctx.obj, flags={key.replace("_", ".", 1): value for key, value in flags.items()})


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

    tree = _load(
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
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File to write: .jpeg, .jpg or .png (default: impasto.jpeg).",
)
@click.option("--size", default="landscape_4_3", show_default=True, help="A preset such as square_hd, or WIDTHxHEIGHT.")
@click.option("--steps", type=int, default=28, show_default=True, help="Denoising steps, 1 to 50.")
@click.option("--seed", type=int, help="Same seed, same prompt, same picture (default: a random one, printed).")
@click.option(
    "--guidance", type=float, default=3.5, show_default=True, help="How closely to follow the prompt, 1 to 20."
)
@click.option("--num-images", type=int, default=1, show_default=True, help="Pictures to draw, 1 to 4.")
@click.option(
    "--lora",
    "loras",
    metavar="PATH|URL[:SCALE]",
    multiple=True,
    help="A LoRA to draw with: a .safetensors file, a URL or owner/name of the hub; may be given several times.",
)
@click.option(
    "--preview/--no-preview", default=None, help="Show the picture in the terminal (default: if it shows colours)."
)
@model_options
@click.pass_context
def generate(ctx: click.Context, prompt: str, output: Path | None, **options: Any) -> None:
    """Draw PROMPT to a file, without a server.

    \b
    Examples:
      impasto generate "a red apple"
      impasto generate "a rocket on a blue background" -o rocket.png --size 1024x768 --seed 7
      impasto generate "a red fox" --model flux.1-dev --lora ink.safetensors:0.8
    """
    from impasto import terminal
    from impasto.generate import generate_files

    preview = options["preview"]
    tree = _load(ctx, model_name=options["model"], model_device=options["device"], model_threads=options["threads"])
    try:
        generate_files(
            tree,
            prompt=prompt,
            output=output or Path("impasto.jpeg"),
            size=options["size"],
            steps=options["steps"],
            seed=options["seed"],
            guidance=options["guidance"],
            num_images=options["num_images"],
            loras=options["loras"],
            preview=terminal.shows_pictures(sys.stderr, os.environ) if preview is None else preview,
        )
    except ModelError as error:
        lines = [f"{item['loc'][-1]}: {item['msg']}" for item in error.items]
        raise click.UsageError("\n".join(lines), ctx) from None


@main.group()
def models() -> None:
    """List, fetch, add, check and remove models."""


@models.command("list")
@data_option
@click.pass_context
def models_list(ctx: click.Context, data: str | None) -> None:
    """List the known models and those on this machine: name, licence, memory, where.

    \b
    Example:
      impasto models list
    """
    from impasto.models import lines

    for line in lines(_load(ctx, data=data)):
        click.echo(line)


@models.command("pull")
@click.argument("name")
@data_option
@click.pass_context
def models_pull(ctx: click.Context, name: str, data: str | None) -> None:
    """Fetch a model of the list from its hub (needs `pip install impasto[hub]`).

    \b
    Examples:
      impasto models pull flux.1-schnell
      HF_TOKEN=hf_… impasto models pull flux.1-dev     (its licence must be accepted first)
    """
    from impasto.models import pull

    click.echo(pull(_load(ctx, data=data), name))


@models.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What to call it (default: what it is).")
@click.option("--as", "model", metavar="MODEL", help="What it is, where the files do not tell: flux.1-krea-dev …")
@data_option
@click.pass_context
def models_add(ctx: click.Context, path: Path, name: str | None, model: str | None, data: str | None) -> None:
    """Make weights on this machine known by name. They stay where they are.

    \b
    Examples:
      impasto models add /weights/flux1-dev.safetensors
      impasto models add /weights/my-finetune --name portraits --as flux.1-dev
    """
    from impasto.models import add

    click.echo(add(_load(ctx, data=data), path, name=name, model=model))


@models.command("check")
@click.argument("name")
@click.option("--sums/--no-sums", default=True, show_default=True, help="Compare checksums, which reads every byte.")
@data_option
@click.pass_context
def models_check(ctx: click.Context, name: str, sums: bool, data: str | None) -> None:
    """Check a model without loading it: every tensor's name and shape, and the files' checksums.

    \b
    Example:
      impasto models check flux.1-dev
    """
    from impasto.models import check

    for line in check(_load(ctx, data=data), name, sums=sums):
        click.echo(line)


@models.command("remove")
@click.argument("name")
@data_option
@click.pass_context
def models_remove(ctx: click.Context, name: str, data: str | None) -> None:
    """Forget a model. What was pulled is deleted; what was added stays where it is.

    \b
    Example:
      impasto models remove flux.1-dev
    """
    from impasto.models import remove

    click.echo(remove(_load(ctx, data=data), name))


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
        store = await open_store(_load(ctx, data=data))
        try:
            return (await store.create_key(alias=alias, scopes=[scope]))[1]
        finally:
            await store.close()

    click.echo(asyncio.run(create()))


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
        store = await open_store(_load(ctx, data=data))
        try:
            for key in store.keys():  # noqa: SIM118 - a store is no mapping
                created = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d %H:%M")
                state = "live" if key.revoked_at is None else "revoked"
                click.echo(f"{key.key_id}  {','.join(key.scopes):<6} {state:<8} {created}  {key.alias}")
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
        store = await open_store(_load(ctx, data=data))
        try:
            return await store.revoke_key(key_id.partition(":")[0])
        finally:
            await store.close()

    if not asyncio.run(revoke()):
        raise click.UsageError(f"no live key {key_id!r}; `impasto keys list` shows them", ctx)
    click.echo(f"revoked {key_id.partition(':')[0]}")


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
        store = await open_store(_load(ctx, data=data))
        try:
            for key in store.signing_keys():
                until = "" if key.retire_at is None else f"  published until {_date(key.retire_at)}"
                click.echo(f"{key.kid}  signs from {_date(key.active_from)}{until}")
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
        tree = _load(ctx, data=data)
        store = await open_store(tree)
        try:
            key = await store.rotate_signing_key(overlap=0 if at_once else tree.webhooks.key_overlap_hours * 3600)
            return f"{key.kid}  signs from {_date(key.active_from)}"
        finally:
            await store.close()

    click.echo(asyncio.run(rotate()))


def _date(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


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

    for line in asyncio.run(lines(_load(ctx, data=data), **filters)):
        click.echo(line)


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

    found = asyncio.run(details(_load(ctx, data=data), request_id))
    if found is None:
        raise click.UsageError(f"no request {request_id!r}; `impasto requests list` shows them", ctx)
    click.echo(found)


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

    word = asyncio.run(cancel(_load(ctx, data=data), request_id))
    if word == "NOT_FOUND":
        raise click.UsageError(f"no request {request_id!r}; `impasto requests list` shows them", ctx)
    click.echo(f"{word.lower().replace('_', ' ')}: {request_id}")


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

    tree = _load(
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


@main.command()
@click.argument("request")
@click.option("--url", envvar="IMPASTO_URL", help="The server (default: http://127.0.0.1:8000 or the configured one).")
@click.option("--key", envvar="FAL_KEY", help="The API key that submitted it, where the server asks for one.")
@click.option(
    "--preview/--no-preview", default=None, help="Show the pictures in the terminal (default: if it shows colours)."
)
@click.pass_context
def watch(ctx: click.Context, request: str, url: str | None, key: str | None, preview: bool | None) -> None:
    """Follow REQUEST, an id or a URL of it, until its pictures are there.

    \b
    Examples:
      impasto watch 764cabcf-b745-4b3e-ae38-1200304cf45b
      impasto watch http://127.0.0.1:8000/queue/fal-ai/flux-pro/requests/764cabcf-b745-4b3e-ae38-1200304cf45b
    """
    from impasto import terminal
    from impasto.client.watch import watch as follow

    shown = terminal.shows_pictures(sys.stderr, os.environ) if preview is None else preview
    base = (url or _load(ctx).local_url).rstrip("/")
    sys.exit(follow(request, url=base, key=key, pictures=shown, out=sys.stdout, err=sys.stderr))


@main.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--url", envvar="IMPASTO_URL", help="The server (default: http://127.0.0.1:8000 or the configured one).")
@click.option(
    "--method",
    type=click.Choice(["shim", "connect"]),
    default="shim",
    show_default=True,
    help="shim: inside Python and Node.js programs; connect: an HTTPS proxy, for any language.",
)
@data_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(
    ctx: click.Context, url: str | None, method: Literal["shim", "connect"], data: str | None, command: tuple[str, ...]
) -> None:
    """Run COMMAND, a program written for fal, against the local server.

    \b
    Examples:
      impasto exec -- python app.py
      impasto exec -- node app.mjs
      impasto exec --url http://127.0.0.1:9000 -- python app.py
      impasto exec --method connect -- ./app        (a program in another language)
    """
    from impasto.client.execute import run

    tree = _load(ctx, data=data)
    sys.exit(run(command, base_url=(url or tree.local_url).rstrip("/"), method=method, data=tree.data))


@main.command(
    "train", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Make the embedded model's data and train it (needs `pip install impasto[train]`).

    \b
    Example:
      impasto train default-model --help
    """
    from impasto.training.cli import train as group

    group.main(args=list(arguments), prog_name="impasto train", standalone_mode=True)


if __name__ == "__main__":
    main()
