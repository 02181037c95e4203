"""The command line: one command a module in node/commands, errors in one sentence, exit codes 0, 1 and 2."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from db.errors import DatabaseError
from node.commands import calibrate, check, demo, infer, models, queue, send, serve, stats, steer
from node.errors import ConfigurationError, OverreadError

app = typer.Typer(
    name="overread",
    help="A DICOM node that gives every study a second read.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(check.check)
app.command(name="queue")(queue.queue)
app.command()(queue.show)
app.command()(steer.retry)
app.command()(steer.cancel)
app.command()(steer.prioritize)
app.command()(steer.reprocess)
app.command(name="explain-route")(check.explain_route)
app.command()(infer.infer)
app.add_typer(models.app, name="models")
app.command()(calibrate.calibrate)
app.command()(send.send)
app.command()(send.echo)
app.command()(stats.stats)
app.command()(demo.demo)


def main() -> None:
    """Entry point of the ``overread`` command."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        app()
    except ConfigurationError as error:
        errors.print(str(error), markup=False)
        sys.exit(2)
    except (OverreadError, DatabaseError) as error:
        errors.print(str(error), markup=False)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()
