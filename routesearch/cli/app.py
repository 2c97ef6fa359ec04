"""The commands put together, and how each way to end becomes an exit status."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from routesearch import __version__
from routesearch.cli import (
    best,
    catalogue,
    check,
    export,
    init,
    latency,
    models,
    new_plugin,
    plan,
    results,
    search,
)
from routesearch.cli.output import PROGRAM, answering, log, start_logging
from routesearch.errors import Refusal, RouteSearchError, full_traceback, shortened
from routesearch.errors.texts import MAX_LINE, one_line
from routesearch.utils.process_environment import (
    check_working_directory,
    print_anything,
    restart_in_utf8,
    sane_environment,
)

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

UsageError = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""What the parser raises, any of it (click calls it ClickException). typer's versions keep the class in
different places, but a child of its child has a public name."""

COMMANDS = {
    "Search": (init.init, plan.plan, search.search),
    "Results": (results.front, best.best, results.trials, results.ui, results.publish),
    "Saved models": (models.predict, latency.latency, export.export),
    "What there is": (catalogue.cost, catalogue.methods, catalogue.backbones, catalogue.datasets),
    "Plugins": (new_plugin.new_plugin, check.check),
}


def _flowing(doc: str | None) -> str:
    """A docstring as help: each paragraph one line, which the terminal breaks where it is full."""
    return "\n\n".join(" ".join(part.split()) for part in (doc or "").split("\n\n"))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
for _panel, _functions in COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_panel, help=_flowing(_function.__doc__))(answering(_function))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


_ABOUT = """Find the network that sends each image through only the part it needs, under a compute budget.

A study file says which images, which backbone, which routing methods and what budget: `init` writes one,
`search` runs it, `front` and `best` show what was found.
"""


@app.callback(invoke_without_command=True, help=_flowing(_ABOUT))
def _global(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More detail, and tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command; without a command the help."""
    start_logging(verbose)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    if arguments is None:
        restart_in_utf8()
    print_anything()
    start_logging(verbose=False)
    try:
        with sane_environment():
            status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader left, such as `routesearch trials … | head`
        with contextlib.suppress(OSError, ValueError):  # flushing again at exit must not complain either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def _run(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        check_working_directory()
        status = command.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        return status if isinstance(status, int) else DONE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as gone:  # what typer makes of a broken pipe
        raise BrokenPipeError from gone
    except UsageError as error:
        where = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        message = error.format_message()  # type: ignore[attr-defined]
        complain(f"{message.rstrip('.')} (see `{where} --help`)")
        return REFUSED
    except RouteSearchError as error:
        complain(str(error), error)
        return REFUSED if isinstance(error, Refusal) else FAILED
    except Exception as error:
        hint = "" if log.isEnabledFor(logging.DEBUG) else f"; `{PROGRAM} -v …` shows the traceback"
        complain(f"{shortened(error, MAX_LINE)}{hint}", error)
        return FAILED


def complain(text: str, error: BaseException | None = None) -> None:
    """One line on standard error; the traceback too where the user asked for detail."""
    sys.stderr.write(f"{PROGRAM}: {one_line(text)}\n")
    if error is not None and log.isEnabledFor(logging.DEBUG):
        sys.stderr.write(full_traceback(error))
