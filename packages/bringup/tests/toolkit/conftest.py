"""The command line in a process of its own, over an empty state folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Bringup = Callable[..., "tuple[int, Any]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where bringup keeps its things in this test."""
    return tmp_path / "home"


@pytest.fixture
def bringup(home: Path) -> Bringup:
    """Run with --json; gives the exit status and the document, which follows its schema."""

    def run(*arguments: str | Path) -> tuple[int, Any]:
        program = "from bringup.cli.main import main; main()"
        command = [sys.executable, "-c", program, *map(str, arguments), "--json"]
        environment = os.environ | {"BRINGUP_HOME": str(home), "BRINGUP_LANG": "en"}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert ran.stdout, ran.stderr
        document = json.loads(ran.stdout)
        kind = document["schema"].split("/")[1]
        if kind != "error":
            text = (resources.files("bringup.report") / "schemas" / f"{kind}.json").read_text(
                encoding="utf-8"
            )
            jsonschema.validate(document, json.loads(text))
        return ran.returncode, document

    return run
