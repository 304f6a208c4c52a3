"""Progress, failures and configuration of engines; sizes from wheels, near and behind a server."""

from __future__ import annotations

import http.server
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.steps.image.engines import (
    Engine,
    build_words,
    find_engine,
    gpu_words,
    last_words,
    pip_options,
    pip_secrets,
    progress_line,
)
from bringup.steps.image.sizes import unpacked_sizes


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("STEP 3/7: RUN   set -eu;    x", "[ 3/7] RUN set -eu; x"),
        ("[2/2] STEP 4/7: COPY --from=site /changes/ /", "[ 4/7] COPY --from=site /changes/ /"),
        ("#12 [site 2/5] RUN --mount=type=cache set -eu", "[ 2/5] site: RUN --mount=type=cache set -eu"),
        ("#9 4.217 Downloading torch-2.14.1.whl (800 MB)", "Downloading torch-2.14.1.whl (800 MB)"),
        ("bringup: import torch: ok", "bringup: import torch: ok"),
        ("#12 sha256:abc 10MB / 30MB", None),
        ("", None),
    ],
)
def test_progress(line: str, shown: str | None) -> None:
    assert progress_line(line) == shown


def test_last_words_leave_the_repeated_command_out() -> None:
    output = """[1/2] STEP 5/6: RUN set -eu; pip install x
ERROR: No matching distribution found for x==9
subprocess exited with status 1
Error: building at STEP "RUN set -eu; pip install x": exit status 1
"""
    assert last_words(output) == "ERROR: No matching distribution found for x==9"
    assert last_words("") == "–"


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("docker", ["build", "--progress=plain", "-t", "x:1", "."]),
        ("podman", ["build", "--layers=false", "-t", "x:1", "."]),
        ("buildah", ["bud", "--layers=false", "-t", "x:1", "."]),
    ],
)
def test_build_words(engine: str, words: list[str]) -> None:
    assert build_words(engine, "x:1", ".") == words  # type: ignore[arg-type]


def test_gpus_by_engine() -> None:
    assert gpu_words("docker", True) == ["--gpus", "all"]
    assert gpu_words("podman", True) == ["--device", "nvidia.com/gpu=all"]
    assert gpu_words("docker", False) == []


def test_pips_configuration_becomes_secret_files(tmp_path: Path) -> None:
    certificate = tmp_path / "ca.pem"
    certificate.write_text("x")
    options = {
        "index-url": "https://user:secret@mirror.example/simple",
        "extra-index-url": "file:///opt/simple https://other.example/simple",
        "find-links": "/opt/wheels",
        "default-timeout": "60",
        "cert": str(certificate),
    }
    with pip_secrets(options) as secrets:
        file = Path(secrets["pip"])
        text = file.read_text()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert secrets["ca"] == str(certificate)
    assert not file.exists()
    assert "user:secret@mirror.example" in text
    assert "https://other.example/simple" in text
    assert "timeout = 60" in text
    assert "/opt" not in text


def test_pips_own_answer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://a.example/simple\nretries = 7\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_RETRIES", "3")
    options = pip_options()
    assert options["retries"] == "3"
    assert options.get("index-url") == os.environ.get("PIP_INDEX_URL", "https://a.example/simple")


def stand_in(folder: Path, name: str, text: str) -> None:
    """A program of this name that answers like an engine in trouble."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def test_an_engine_that_does_not_answer_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BringupError, match="no-engine"):
        find_engine()
    with pytest.raises(BringupError, match="engine-missing"):
        find_engine("podman")
    stand_in(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(BringupError, match="engine-silent"):
        find_engine()
    stand_in(tmp_path, "buildah", "exit 0")
    assert find_engine() == Engine("buildah", str(tmp_path / "buildah"))


def test_where_overlays_are_not_to_be_had_plain_copies_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    trouble = "echo 'kernel does not support overlay fs' >&2; exit 125"
    stand_in(tmp_path, "podman", f'[ "$2" = vfs ] && exit 0; {trouble}')
    assert find_engine("podman").options == ("--storage-driver", "vfs")


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that answers range requests, as package indexes do."""

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        span = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = span.partition("-")
        start = max(0, len(content) - int(last)) if not first else int(first)
        end = len(content) - 1 if not first or not last else int(last)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        self.wfile.write(content[start : end + 1])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = lambda *args: _Ranges(*args, directory=str(tmp_path))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("members", [1, 3000], ids=["small", "a directory longer than one request"])
def test_unpacked_sizes_without_fetching_the_wheel(members: int, server: str, tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members):
            archive.writestr(f"package/module_{number:06}.so", b"x" * 1000)
    (tmp_path / "broken.whl").write_bytes(b"no zip")
    urls = [f"{server}/{wheel.name}", wheel.as_uri(), f"{server}/broken.whl", f"{server}/none.whl"]
    assert unpacked_sizes(urls) == [members * 1000, members * 1000, None, None]


def test_bytecode_that_pip_writes_counts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x-1-py3-none-any.whl", "w") as archive:
        archive.writestr("package/module.py", b"x" * 1000)
    assert unpacked_sizes([(tmp_path / "x-1-py3-none-any.whl").as_uri()]) == [2400]
