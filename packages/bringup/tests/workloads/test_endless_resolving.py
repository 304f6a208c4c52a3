"""What pip would never be done with: ended in time, and what it tried or waited for is named."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
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


def test_a_resolver_whose_making_was_ended_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "home"))
    wheel(tmp_path, "base", "2.0")
    interpreter = next(row for row in find_interpreters() if row.minor >= (3, 10))
    made = Resolver(interpreter, (tmp_path,), True)
    command = [interpreter.path, "-m", "venv", "--without-pip", str(made._folder)]
    subprocess.run(command, check=True)
    assert made.resolve(["base"])[0].version == "2.0"


BACKEND = """
def prepare_metadata_for_build_wheel(folder, settings=None):
    import os
    os.mkdir(os.path.join(folder, "pinned-1.0.dist-info"))
    with open(os.path.join(folder, "pinned-1.0.dist-info", "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: pinned\\nVersion: 1.0\\n")
    return "pinned-1.0.dist-info"
def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("compiled")
"""


def source(folder: Path, name: str, requires: list[str]) -> None:
    """A source package of the release 1.0 that describes itself without being compiled."""
    system = f'[build-system]\nrequires = {requires}\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": system, "backend.py": BACKEND}
    files["PKG-INFO"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
        for file, text in files.items():
            row = tarfile.TarInfo(f"{name}-1.0/{file}")
            row.size = len(text)
            archive.addfile(row, io.BytesIO(text.encode()))


def test_what_a_build_needs_is_not_what_was_asked_for(tmp_path: Path) -> None:
    """opencv-python 4.5.1 is built with numpy 1.19.3, which has no wheel: the numpy that is wanted has one."""
    source(tmp_path, "pinned", [])
    source(tmp_path, "built", ["pinned==1.1"])
    for name in ("pinned", "built"):
        wheel(tmp_path, name, "2.0")
    interpreter = next(row for row in find_interpreters() if row.minor >= (3, 10))
    resolver = Resolver(interpreter, (tmp_path,), True)
    for pins in (["pinned==1.0", "built==1.0"], ["pinned>=1.0", "built==1.0"]):
        with pytest.raises(BringupError) as caught:
            resolver.resolve(pins)
        assert caught.value.id == "no-matching-distribution"
        assert caught.value.parameters["requirement"] == "built==1.0"
    assert [row.file for row in resolver.resolve(["pinned==1.0"])] == ["pinned-1.0.tar.gz"]
    for pins in (["pinned>=1.0", "built>=1.0"], ["built", "pinned"], ["pinned"]):
        assert all(row.file.endswith(".whl") for row in resolver.resolve(pins))


class Drip(BaseHTTPRequestHandler):
    """An index that answers each question, a byte at a time: no time-out of pip's ever passes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        try:
            for _ in range(600):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_index() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Drip)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{server.server_port}/simple"
    server.shutdown()


def test_an_index_that_is_only_slow_is_waited_for_so_long(
    slow_index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = next(row for row in find_interpreters() if row.minor >= (3, 10))
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path))
    Resolver(interpreter).prepare()
    for name, value in (("INDEX_URL", slow_index), ("CONFIG_FILE", os.devnull), ("FIND_LINKS", "")):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("BRINGUP_PLANNING_MINUTES", "0.05")
    slow = Resolver(interpreter)
    begun = time.monotonic()
    for ask in (lambda: slow.resolve(["idna==3.7"]), lambda: slow.versions("idna")):
        with pytest.raises(BringupError) as caught:
            ask()
        assert caught.value.id == "index-too-slow"
        assert str(caught.value.parameters["subject"]).startswith("idna")
        assert "secret" not in str(caught.value.parameters)
    assert time.monotonic() - begun < 15


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM")
def test_a_request_to_end_takes_pip_along(slow_index: str, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "requirements.txt").write_text("idna==3.7\n")
    (tmp_path / "temporary").mkdir()
    variables = {"BRINGUP_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    variables |= {"PIP_INDEX_URL": slow_index, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "plan", "--lang", "en"]
    command += ["--project", str(tmp_path / "project"), "-o", str(tmp_path / "plan.toml"), "--cpu"]
    with subprocess.Popen(command, env=os.environ | variables, stderr=subprocess.PIPE, text=True) as running:
        pip = _pip_below(running)
        running.terminate()
        assert "Interrupted" in running.communicate(timeout=30)[1]
    assert running.returncode == 143
    assert not pip.is_running() or pip.status() == psutil.STATUS_ZOMBIE
    assert not list((tmp_path / "temporary").glob("bringup-*"))


def _pip_below(running: subprocess.Popen[str]) -> psutil.Process:
    """The pip that waits for the index."""
    for _ in range(600):
        for child in psutil.Process(running.pid).children():
            with suppress(psutil.Error):
                if {"--no-input", "install"} <= set(child.cmdline()) or "versions" in child.cmdline():
                    return child
        time.sleep(0.1)
    raise AssertionError("no pip was started")
