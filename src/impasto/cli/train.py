"""`impasto train`: hands over to the training room, which has options of its own."""

import click

from impasto.cli.group import main


@main.command(
    "train", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def train(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Make the embedded model's data and train it (data needs the extra `train`, docs/training.md).

    \b
    Example:
      impasto train default-model --help
    """
    from impasto.training.cli import train as group

    group.main(args=list(arguments), prog_name="impasto train", standalone_mode=True)
