"""What pip would never be done with: ended in time, and what it tried or waited for is named."""

from __future__ import annotations

import os
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
