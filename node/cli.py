"""The command line. Errors are printed as one sentence; exit codes are 0, 1 (it failed) and 2 (called wrongly)."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib import import_module

import typer
from rich.console import Console

from db.errors import DatabaseError
from inference.threads import calm_threads
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
"""Each command and its module in node/commands. Only the called one is imported: engines and reports load slowly."""


def application(names: Iterable[str]) -> typer.Typer:
    """The command line with only these commands."""
    # No markup: Rich would take names of tables such as [[engine]] for styles.
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
    """The entry point of the ``overread`` command."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    if not sys.warnoptions:
        # pydicom's warnings quote values, which may identify a patient.
        warnings.simplefilter("ignore")
    calm_threads()  # before a command's module loads the libraries that read it
    called_commands = [name for name in sys.argv[1:2] if name in COMMANDS]
    try:
        application(called_commands or COMMANDS)()
    except (ConfigurationError, UsageError) as error:
        errors.print(str(error), markup=False)
        sys.exit(2)
    except (OverreadError, DatabaseError) as error:
        errors.print(str(error), markup=False)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        errors.print(f"{_file_prefix(error)}{error.strerror or error}.", markup=False)
        sys.exit(1)


def _file_prefix(error: OSError) -> str:
    return "" if error.filename is None else f"{error.filename}: "


if __name__ == "__main__":
    main()
