"""`impasto models`: the weights on this machine."""

from pathlib import Path

import click

from impasto.cli.group import data_option, load, main, say


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

    for line in lines(load(ctx, data=data)):
        say(line)


@models.command("pull")
@click.argument("name")
@data_option
@click.pass_context
def models_pull(ctx: click.Context, name: str, data: str | None) -> None:
    """Fetch a model of the list from its hub (needs the extra `hub`, docs/models.md).

    \b
    Examples:
      impasto models pull flux.1-schnell
      HF_TOKEN=hf_… impasto models pull flux.1-dev     (its licence must be accepted first)
    """
    from impasto.models import pull

    say(pull(load(ctx, data=data), name))


@models.command("add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME", help="What to call it (default: what it is).")
@click.option("--as", "model", metavar="MODEL", help="What it is, where the files do not tell: flux.1-krea-dev …")
@click.option(
    "--sums/--no-sums", default=True, show_default=True, help="Record checksums for `check`, which reads every byte."
)
@data_option
@click.pass_context
def models_add(
    ctx: click.Context, path: Path, name: str | None, model: str | None, sums: bool, data: str | None
) -> None:
    """Make weights on this machine known by name. They stay where they are.

    \b
    Examples:
      impasto models add /weights/flux1-dev.safetensors
      impasto models add /weights/my-finetune --name portraits --as flux.1-dev
    """
    from impasto.models import add

    say(add(load(ctx, data=data), path, name=name, model=model, sums=sums))


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

    for line in check(load(ctx, data=data), name, sums=sums):
        say(line)


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

    say(remove(load(ctx, data=data), name))
