"""Folders: loops, links, pipes, unreadable places; each file once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bringup.binaries.model import BinaryReport, Unreadable
from bringup.binaries.report import kind_of, scan_file, scan_path

from . import archives


def _names(root: Path) -> list[str]:
    return sorted(Path(row.path).name for row in scan_path(root) if isinstance(row, BinaryReport))


@pytest.fixture
def tree(tmp_path: Path, fixtures: Path) -> Path:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    shutil.copy(fixtures / "many.so", root / "a" / "real.so")
    (root / "a" / "text.so").write_text("no library")
    (root / "a" / "module.py").write_text("")
    return root


def test_loops_and_links_are_walked_once(tree: Path, tmp_path: Path, fixtures: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree)
    (tree / "self").symlink_to("self")
    (tree / "nowhere.so").symlink_to("missing.so")
    (tree / "again.so").symlink_to("a/real.so")
    outside = tmp_path / "cache.so"
    shutil.copy(fixtures / "family.so", outside)
    (tree / "linked.so").symlink_to(outside)
    os.link(tree / "a" / "real.so", tree / "hard.so")
    assert _names(tree) in (["linked.so", "real.so"], ["hard.so", "linked.so"])


def test_pipes_and_devices_do_not_block(tree: Path) -> None:
    os.mkfifo(tree / "pipe.so")
    (tree / "zero.so").symlink_to("/dev/zero")
    assert _names(tree) == ["real.so"]
    for path in (tree / "pipe.so", Path("/dev/zero"), tree / "a"):
        row = scan_file(path)
        assert isinstance(row, Unreadable)


def test_what_is_missing_or_empty_is_named(tree: Path) -> None:
    (tree / "empty.so").touch()
    rows = [row for row in scan_path(tree) if isinstance(row, Unreadable)]
    assert [(Path(row.path).name, row.reason) for row in rows] == [("empty.so", "empty")]
    (row,) = scan_path(tree / "none")
    assert isinstance(row, Unreadable)


def test_programs_and_eggs_are_read(tree: Path, fixtures: Path) -> None:
    shutil.copy(fixtures / "two-units.so", tree / "program")
    archives.wheel(tree / "zipped.egg", {"pkg/_C.so": (fixtures / "family.so").read_bytes()})
    assert _names(tree) == ["_C.so", "program", "real.so"]


def test_environments_are_known_by_their_marks(tree: Path) -> None:
    assert kind_of(tree) == "folder"
    (tree / "pyvenv.cfg").touch()
    assert kind_of(tree) == "environment"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_without_permission_is_named(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As another user where the test runs as root, whom no permission stops."""
    locked = tree / "locked"
    locked.mkdir()
    (locked / "x.so").touch()
    secret = tree / "a" / "secret.so"
    shutil.copy(tree / "a" / "real.so", secret)
    secret.chmod(0)
    locked.chmod(0)
    # Another user must be able to reach the tree; pytest keeps its folders to the user who runs it.
    base = tmp_path_factory.getbasetemp()
    while (
        base.parent != base
        and base.parent.owner() == base.owner()
        and base.parent != Path(tempfile.gettempdir())
    ):
        base = base.parent
    for folder in (tree, *tree.parents):
        if folder.is_relative_to(base):
            folder.chmod(0o755)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from bringup.binaries.report import Unreadable, scan_path\n"
        "os.geteuid() == 0 and os.setuid(65534)\n"
        "print(*sorted(Path(r.path).name for r in scan_path(Path(sys.argv[1])) if isinstance(r, Unreadable)))\n"
    )
    command = [sys.executable, "-c", script, str(tree)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        locked.chmod(0o755)
    assert done.stdout.split() == ["locked", "secret.so"]
