"""`impasto watch` and `impasto exec`: the server from the side of its clients."""

import os
import sys
from typing import Literal

import click
from click.core import ParameterSource

from impasto.cli.group import data_option, load, main


@main.command()
@click.argument("request")
@click.option(
    "--url",
    envvar="IMPASTO_URL",
    help="The server (default: that of REQUEST's URL, else http://127.0.0.1:8000 or the configured one).",
)
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
    from impasto.client.watch import origin
    from impasto.client.watch import watch as follow

    shown = terminal.shows_pictures(sys.stderr, os.environ) if preview is None else preview
    named = None if ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE else origin(request)
    base = (named or url or load(ctx).local_url).rstrip("/")
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
@click.option(
    "--file-urls",
    type=click.Choice(["server", "fal"]),
    help="Method shim: whose host the URLs of files name. server: a browser opens them; fal: for programs that refuse "
    "private addresses (default: server, and fal for clients known to refuse).",
)
@data_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec_(
    ctx: click.Context,
    url: str | None,
    method: Literal["shim", "connect"],
    file_urls: Literal["server", "fal"] | None,
    data: str | None,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND, a program written for fal, against the local server.

    \b
    Examples:
      impasto exec -- python app.py
      impasto exec -- node app.mjs
      impasto exec --url http://127.0.0.1:9000 -- python app.py
      impasto exec --file-urls fal -- npm run dev   (next/image with fal's hosts in its configuration)
      impasto exec --method connect -- ./app        (a program in another language)
    """
    from impasto.client.execute import run

    tree = load(ctx, data=data)
    sys.exit(
        run(command, base_url=(url or tree.local_url).rstrip("/"), method=method, data=tree.data, file_urls=file_urls)
    )
