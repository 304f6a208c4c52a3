"""Weights over a real HTTP server: resumed, from a mirror, refused when wrong, in the hub's own layout."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest

from bringup.errors import BringupError
from bringup.plan.steps import FetchWeights
from bringup.steps.downloads import download
from bringup.steps.sources import Supplies
from bringup.steps.weights import are_other_weights, fetch_weights, weights_folder

DATA = bytes(range(256)) * 5000
SHA = hashlib.sha256(DATA).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA with ranges; hangs up in the middle where the path says so."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append((self.path, asked))
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        cut = self.path.startswith("/cut") and not asked
        self.wfile.write(DATA[start : start + 1000] if cut else DATA[start:])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Handler.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path / "home"))
    for name in ("HTTP_PROXY", "http_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def test_a_broken_download_is_gone_on_with(server: str, tmp_path: Path) -> None:
    download([f"{server}/cut"], tmp_path / "w.bin", size=len(DATA), sha256=SHA)
    assert (tmp_path / "w.bin").read_bytes() == DATA
    assert _Handler.asked == [("/cut", None), ("/cut", "bytes=1000-")]
    assert download([f"{server}/cut"], tmp_path / "w.bin", sha256=SHA) is None and len(_Handler.asked) == 2


def test_a_mirror_serves_where_the_first_address_does_not(server: str, tmp_path: Path) -> None:
    download([f"{server}/missing", f"{server}/there"], tmp_path / "w.bin", sha256=SHA)
    assert (tmp_path / "w.bin").read_bytes() == DATA


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 7}])
def test_another_content_is_refused_and_not_kept(
    server: str, tmp_path: Path, wrong: dict[str, object]
) -> None:
    with pytest.raises(BringupError, match="wrong-hash"):
        download([f"{server}/there"], tmp_path / "w.bin", **wrong)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("w.bin*"))


def test_nothing_serves(server: str, tmp_path: Path) -> None:
    with pytest.raises(BringupError, match="download-failed"):
        download([f"{server}/missing", "http://127.0.0.1:9/x"], tmp_path / "w.bin")


def hub(**more: object) -> FetchWeights:
    row = {"id": "weights-m", "repository": "org/model", "files": {"a.bin": SHA, "config.json": ""}}
    return FetchWeights.model_validate({**row, **more})


def fetch(step: FetchWeights, supplies: Supplies | None = None) -> list[Path]:
    return fetch_weights(step, supplies or Supplies(), lambda line: None)


def test_hub_files_lie_as_the_hub_library_keeps_them(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server)
    paths = fetch(hub(revision="b" * 40))
    root = weights_folder() / "huggingface" / "hub" / "models--org--model"
    assert paths[0] == root / "snapshots" / ("a" * 40) / "a.bin" and paths[0].read_bytes() == DATA
    assert (root / "refs" / "main").read_text() == "a" * 40
    asked = len(_Handler.asked)
    assert fetch(hub(revision="b" * 40), Supplies(offline=True)) == paths and len(_Handler.asked) == asked


def test_the_hub_library_finds_them_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "a.bin").write_bytes(DATA)
    (given / "config.json").write_text("{}")
    fetch(hub(local=str(given)))
    found = huggingface_hub.hf_hub_download(
        "org/model", "a.bin", cache_dir=weights_folder() / "huggingface" / "hub", local_files_only=True
    )
    assert Path(found).read_bytes() == DATA


def test_offline_names_each_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BringupError) as raised:
        fetch(hub(), Supplies(offline=True))
    assert raised.value.id == "weights-missing" and raised.value.parameters["files"] == "a.bin, config.json"
    plain = FetchWeights(id="weights-u", url="https://example.org/u2net.onnx?x=1", destination="u2net")
    with pytest.raises(BringupError, match="weights-missing"):
        fetch(plain, Supplies(offline=True))
    pack = tmp_path / "pack"
    (pack / "weights").mkdir(parents=True)
    (pack / "weights" / "u2net.onnx").write_bytes(b"net")
    assert fetch(plain, Supplies(True, pack)) == [weights_folder() / "u2net" / "u2net.onnx"]


def test_weights_of_ones_own_are_taken_and_told_from_the_pinned_ones(tmp_path: Path) -> None:
    revision, own, true = "b" * 40, tmp_path / "own", tmp_path / "true"
    for folder, data in ((own, b"trained further"), (true, DATA)):
        folder.mkdir()
        (folder / "a.bin").write_bytes(data)
        (folder / "config.json").write_text("{}")
    for _ in range(2):  # the second time nothing is copied or hashed
        (weights, _config) = fetch(hub(local=str(own), revision=revision))
        assert weights.read_bytes() == b"trained further" and are_other_weights("org/model", revision)
    with pytest.raises(BringupError, match="weights-missing"):  # they do not stand in for the pinned ones
        fetch(hub(revision=revision), Supplies(offline=True))
    for _ in range(2):
        fetch(hub(local=str(true), revision=revision))
        assert not are_other_weights("org/model", revision)
    fetch(hub(local=str(own), revision=revision))
    (weights, _config) = fetch(hub(revision=revision), Supplies(offline=True))
    assert weights.read_bytes() == DATA and not are_other_weights("org/model", revision)
    assert main_weights() == DATA  # what a library finds under "main"


def main_weights() -> bytes:
    store = weights_folder() / "huggingface" / "hub"
    found = huggingface_hub.hf_hub_download("org/model", "a.bin", cache_dir=store, local_files_only=True)
    return Path(found).read_bytes()


def test_a_packs_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "org" / "model"
    folder.mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"other")
    (folder / "config.json").write_text("{}")
    with pytest.raises(BringupError, match="wrong-hash"):
        fetch(hub(), Supplies(True, tmp_path))
