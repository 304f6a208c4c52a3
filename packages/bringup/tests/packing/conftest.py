"""A workload on a small scale: a git repository with a submodule, a hub and a file server, a recipe."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKPOINT = bytes(range(256)) * 9000
BACKGROUND = b"onnx" * 50_000

RECIPE = """
schema = "bringup/recipe/1"
name = "small"
title = {{ en = "Small", zh = "小" }}
summary = {{ en = "Small", zh = "小" }}
python = ">=3.10"
[source]
repository = "{outer}"
commit = "{commit}"
licence = "MIT"
submodules = {{ "vendored/inner" = "{inner}" }}
[torch]
range = ">=2.6"
[[requirements]]
spec = "antlr4-python3-runtime==4.9.3"
[[requirements]]
spec = "idna"
[[extensions]]
distribution = "torchmcubes"
imports = ["torchmcubes"]
ways = ["portable"]
portable = "torchmcubes"
[[weights]]
name = "model"
repository = "owner/model"
revision = "{revision}"
files = {{ "config.yaml" = "", "nested/model.ckpt" = "{checkpoint}" }}
licence = "MIT"
[[weights]]
name = "background-removal"
url = "{server}/files/u2net.onnx"
size = {size}
sha256 = "{background}"
destination = "u2net"
[needs]
gpu = "optional"
disk_gb = 1
[[probes]]
name = "imports"
imports = ["torch", "antlr4", "idna", "torchmcubes"]
[[stages]]
name = "run"
title = {{ en = "Run", zh = "运行" }}
command = ["python", "{{source}}/run.py", "{{arguments}}"]
directory = "{{here}}"
modes = ["arguments"]
environment = {{ HF_HOME = "{{weights}}/huggingface", U2NET_HOME = "{{weights}}/u2net" }}
times = '(?P<name>[A-Z]\\w+) finished in (?P<ms>[\\d.]+)ms'
"""

PROGRAM = """
import os, pathlib, sys
here = pathlib.Path(__file__).parent
assert (here / "vendored/inner/lib.py").is_file()
hub = pathlib.Path(os.environ["HF_HOME"]) / "hub" / "models--owner--model"
snapshot = hub / "snapshots" / (hub / "refs" / "main").read_text()
size = (snapshot / "nested/model.ckpt").stat().st_size
background = (pathlib.Path(os.environ["U2NET_HOME"]) / "u2net.onnx").stat().st_size
print("Counting finished in 12.5ms")
pathlib.Path(sys.argv[1]).write_text(f"{size} {background}")
"""


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
    ran = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


class _Handler(http.server.BaseHTTPRequestHandler):
    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = self.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        span = self.headers.get("Range")
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("X-Repo-Commit", "c" * 40)
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class World:
    """What the recipe's network is: `asked` are the paths that the server was asked for."""

    recipe: Path
    outer: Path
    inner: Path
    server: str
    asked: list[str]
    files: dict[str, bytes]


def _repositories(root: Path) -> tuple[Path, Path, str, str]:
    inner, outer = root / "inner", root / "outer"
    for folder in (inner, outer):
        folder.mkdir(parents=True)
        git(folder, "init", "-q")
        git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    (inner / "lib.py").write_text("x = 1\n")
    git(inner, "add", ".")
    git(inner, "commit", "-qm", "one")
    (outer / "run.py").write_text(PROGRAM)
    git(outer, "submodule", "add", "-q", inner.as_uri(), "vendored/inner")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "one")
    return outer, inner, git(outer, "rev-parse", "HEAD"), git(inner, "rev-parse", "HEAD")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    revision = "d" * 40
    files = {
        f"/owner/model/resolve/{revision}/config.yaml": b"cond: image\n",
        f"/owner/model/resolve/{revision}/nested/model.ckpt": CHECKPOINT,
        "/files/u2net.onnx": BACKGROUND,
    }
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"files": files, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        outer, inner, commit, inner_commit = _repositories(tmp_path / "forge")
        recipe = tmp_path / "small.toml"
        recipe.write_text(
            RECIPE.format(
                outer=outer.as_uri(),
                commit=commit,
                inner=inner_commit,
                revision=revision,
                server=address,
                size=len(BACKGROUND),
                checkpoint=hashlib.sha256(CHECKPOINT).hexdigest(),
                background=hashlib.sha256(BACKGROUND).hexdigest(),
            ),
            encoding="utf-8",
        )
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "state"))
        yield World(recipe, outer, inner, address, asked, files)
        server.shutdown()
