"""Entry point of the ``genpolicy`` command: dispatch, and errors that say what to do.

A subcommand's module is imported only when it is asked for, so that ``genpolicy --help`` answers
at once and a missing simulator stops nothing but the commands that need it.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from genpolicy.errors import GenpolicyError, UsageError, nearest

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "train": "train a policy from a configuration",
    "evaluate": "run a trained policy in its simulator and report its score",
    "sweep": "train and evaluate many: methods x tasks x seeds, resumable, here or on a cluster",
    "report": "write the report of a sweep or of runs",
    "runs": "list, show, compare and remove training runs",
    "compose": "combine trained policies: explain, evaluate, search the weights",
    "bench": "time a policy by backend and batch size",
    "export": "write a policy's whole sampler as a torch.export or ONNX program",
    "data": "list, describe, download or generate data sets",
    "demo": "train and evaluate a small policy, to see everything work",
    "doctor": "check this installation and say how to mend it",
    "version": "print the version",
}
"""Subcommands with one line of help each, in the order they are shown."""

_HELP_FLAGS = ("-h", "--help")
_NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_TEXT = """\
usage: genpolicy COMMAND [ARGUMENTS]

Composable diffusion, flow and consistency policies for imitation learning and offline RL.

commands:
{commands}

examples:
  genpolicy doctor                                    is this installation complete?
  genpolicy data make maze2d-umaze n=100000 seed=0    generate a data set
  genpolicy train experiment=maze2d_umaze_diffusion   train on it
  genpolicy train --help                              options of one command

exit codes: 0 done, 2 wrong usage, 3 data, 4 checkpoint, 5 numerics, 6 simulator,
7 incomplete evaluation or sweep, 1 anything else, 130 interrupted, 143 stopped by SIGTERM.
GENPOLICY_DEBUG=1 prints the full traceback of an error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: arguments without the program name; None means those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return _report("interrupted", _INTERRUPTED)
    except GenpolicyError as error:
        return _report(f"error: {error}", error.exit_code)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; the interpreter's exit flushes stdout once
        # more, which has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        return _report(f"error: {error.strerror}: {error.filename or 'the output folder'}", 1)


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_help_text(), end="", file=sys.stderr)
        return UsageError.exit_code
    command, rest = arguments[0], arguments[1:]
    if command in _HELP_FLAGS or command == "help":
        if command == "help" and rest:
            return _dispatch([rest[0], "--help"])
        print(_help_text(), end="")
        return 0
    if command in ("version", "--version", "-V"):
        return _print_version()
    if command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}; {nearest(command, COMMANDS)}")
    module = importlib.import_module(f"genpolicy.cli.{command}")
    if any(argument in _HELP_FLAGS for argument in rest):
        print(module.HELP, end="")
        return 0
    return int(module.run(rest))


def _help_text() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    return _TEXT.format(commands="\n".join(lines))


def _print_version() -> int:
    from genpolicy import __version__

    print(f"genpolicy {__version__}")
    return 0


def _report(message: str, exit_code: int) -> int:
    if os.environ.get("GENPOLICY_DEBUG", "") not in ("", "0"):
        traceback.print_exc()
    print(f"genpolicy: {message}", file=sys.stderr)
    return exit_code
