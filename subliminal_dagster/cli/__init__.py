"""The command `subliminal-dagster`.

Belongs here: which command is called, and exit codes (0 all fresh or ready, 1 something failed, a gate refused it or
`plan --check` found it due, 2 wrong usage, 130 interrupted). Does not belong here: arguments (`arguments`), what a
command does (`commands`), anything a test or a notebook would want to call.
"""

from __future__ import annotations

import os
import sys

from subliminal_dagster.cli import commands
from subliminal_dagster.cli.arguments import parser
from subliminal_dagster.execution.quiet import quiet_libraries
from subliminal_dagster.science.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(arguments)
    quiet_libraries()
    try:
        return commands.carry_out(options)
    except UserError as error:
        print(f"subliminal-dagster: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever reads the output has seen enough; the rest of it goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The machine's own: a full disk, a folder of somebody else. One that names no file is a fault in here.
        if error.filename is None:
            raise
        print(f"subliminal-dagster: {str(error.filename)[:200]}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("subliminal-dagster: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
