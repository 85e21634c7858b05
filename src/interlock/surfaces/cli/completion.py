"""`interlock completion`: shell completion of commands, options, runs, holds and tools."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from interlock.surfaces.cli.app import COMPLETE, Command, root
from interlock.surfaces.cli.output import Output


class Fish(FishComplete):
    """Click's script for fish, but with whole descriptions (Click's cuts them at a comma) and in our order."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","').replace(
        "complete --no-files", "complete --keep-order --no-files"
    )


_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": Fish}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice([*_SHELLS]))
@click.pass_obj
def completion(out: Output, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  echo 'eval "$(interlock completion bash)"' >> ~/.bashrc
    zsh:   echo 'eval "$(interlock completion zsh)"' >> ~/.zshrc
    fish:  interlock completion fish > ~/.config/fish/completions/interlock.fish
    """  # noqa: D301 - \b tells click to keep the lines
    script = _SHELLS[shell](root, {}, "interlock", COMPLETE)
    # not `source()`, which starts bash to find its version
    text = script.source_template % script.source_vars()
    if out.json:
        out.emit({"shell": shell, "script": text})
    else:
        out.raw(text)
