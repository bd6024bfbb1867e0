"""`completion bash|zsh|fish` of both programs: click's script for the shell, which asks the program itself.

The script names the program as it is installed; `ufrag relay` and `python -m relay` are not completed.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


def completion_command(program: str) -> click.Command:
    """The command for the click group of `program`."""

    @click.command("completion", help=f'Print what completes {program}\'s words: eval "$({program} completion bash)".')
    @click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
    @click.pass_context
    def completion(ctx: click.Context, /, shell: str) -> None:
        kind = get_completion_class(shell)
        assert kind is not None
        click.echo(kind(ctx.find_root().command, {}, program, f"_{program.upper()}_COMPLETE").source())

    return completion
