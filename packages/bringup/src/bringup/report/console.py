"""The terminal: results go to standard output, progress and remarks to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console


def output() -> Console:
    """Console for results. Plain and 80 columns wide where standard output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 80, highlight=False, soft_wrap=False)


def remarks() -> Console:
    """Console for progress, warnings and errors (standard error)."""
    return Console(stderr=True, highlight=False)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on standard output, readable by a program and by a person."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    # Names of files and keys may hold half of a surrogate pair, which has no UTF-8: as JSON's escape.
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
