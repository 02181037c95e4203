"""The command line: one command a module in node/commands, errors in one sentence, exit codes 0, 1 and 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib import import_module

import typer
from rich.console import Console

from db.errors import DatabaseError
from node.errors import ConfigurationError, OverreadError, UsageError

COMMANDS = {
    "serve": "serve",
    "check": "check",
    "queue": "queue",
    "show": "queue",
    "retry": "steer",
    "cancel": "steer",
    "prioritize": "steer",
    "reprocess": "steer",
    "explain-route": "check",
    "infer": "infer",
    "models": "models",
    "calibrate": "calibrate",
    "send": "send",
    "echo": "send",
    "stats": "stats",
    "demo": "demo",
}
"""Each command and its module in node/commands. The queue is looked at without loading engines and report writers."""


def application(names: Iterable[str]) -> typer.Typer:
    """The command line with these commands."""
    # Without markup, in which the tables of the configuration, such as [[engine]], would be styles.
    app = typer.Typer(
        name="overread", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )

    @app.callback(no_args_is_help=True)
    def overread() -> None:
        """A DICOM node that gives every study a second read."""

    for name in names:
        command = getattr(import_module(f"node.commands.{COMMANDS[name]}"), name.replace("-", "_"))
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name=name)(command)
    return app


def main() -> None:
    """Entry point of the ``overread`` command."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    if not sys.warnoptions:
        # pydicom's warnings quote the values that they are about, which may be a patient's.
        warnings.simplefilter("ignore")
    called = [name for name in sys.argv[1:2] if name in COMMANDS]
    try:
        application(called or COMMANDS)()
    except (ConfigurationError, UsageError) as error:
        errors.print(str(error), markup=False)
        sys.exit(2)
    except (OverreadError, DatabaseError) as error:
        errors.print(str(error), markup=False)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        errors.print(f"{_place(error)}{error.strerror or error}.", markup=False)
        sys.exit(1)


def _place(error: OSError) -> str:
    return "" if error.filename is None else f"{error.filename}: "


if __name__ == "__main__":
    main()
