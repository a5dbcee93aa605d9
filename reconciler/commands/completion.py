"""`reconciler completion`: the completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from reconciler.errors import UsageError


@click.command(short_help="print the completion script of a shell")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    eval "$(reconciler completion bash)"                                       # in ~/.bashrc
    reconciler completion fish > ~/.config/fish/completions/reconciler.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise UsageError(f"there is no completion for {shell}")
    root = ctx.find_root().command
    click.echo(kind(root, {}, "reconciler", "_RECONCILER_COMPLETE").source())
