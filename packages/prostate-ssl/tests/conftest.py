"""A GPU machine without the optional packages runs `pytest -m gpu`: other files are not even imported there."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m gpu`, test files that hold no such test are left alone; None: pytest decides."""
    if config.option.markexpr != "gpu" or collection_path.suffix != ".py":
        return None
    return True if "mark.gpu" not in collection_path.read_text(encoding="utf-8") else None
