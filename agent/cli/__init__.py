"""The command line. This module and `--help` load no torch and no plugin."""

from __future__ import annotations

from anybind.agent.cli.app import main

__all__ = ["main"]
