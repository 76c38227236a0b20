"""The command line."""

from tfeptq.cli.main import main

__all__ = ["main"]
