"""The command ``routesearch``. Only typer is imported before a command is chosen: help must be quick."""

from routesearch.cli.app import main

__all__ = ["main"]
