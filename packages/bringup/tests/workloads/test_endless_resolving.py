"""Requirements over which pip goes through all versions: ended in time, and what it tried is named."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.facts.interpreters import find_interpreters
from bringup.plan import resolve
from bringup.plan.resolve import Resolver


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    line = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{line}")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    """1500 releases of `fickle`, none of which goes with the `base` that is asked for."""
    for number in range(1500):
        wheel(tmp_path, "fickle", f"{number}.0", f"base=={number}.5")
    wheel(tmp_path, "base", "2.0")
    made = Resolver(next(row for row in find_interpreters() if row.minor >= (3, 10)), (tmp_path,), True)
    made.prepare()
    return made


def test_it_ends_and_names_what_was_tried(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "_LONGEST_ANSWER", 2.0)
    begun = time.monotonic()
    with pytest.raises(BringupError) as caught:
        resolver.resolve(["fickle", "base==2.0"])
    assert caught.value.id == "no-end-of-resolving"
    assert "fickle" in str(caught.value.parameters["names"])
    assert time.monotonic() - begun < 20
    assert resolver.resolve(["base==2.0"])[0].version == "2.0"  # and nothing is held any more
    assert not resolver.is_late
    assert resolver.has_wheel("base>=1") and not resolver.has_wheel("base>=3")
