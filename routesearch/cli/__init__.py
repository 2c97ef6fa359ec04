"""The command ``routesearch``. Only typer is imported before a command is chosen: help must be quick."""

from routesearch.utils.process_environment import forget_working_directory

forget_working_directory()

from routesearch.cli.app import main  # noqa: E402

__all__ = ["main"]
