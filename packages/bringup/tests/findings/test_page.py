"""The HTML page in a real browser: what a person sees, at two widths, without a network."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from .conftest import FIXTURES, Broken

pytestmark = pytest.mark.slow

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Wider than the window: a page that must be scrolled sideways.
_MEASURE = "<script>document.title = document.documentElement.scrollWidth</script></body>"


def _browser() -> str | None:
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> str:
    """Chromium; on CI it is installed from Debian's packages if it is not there."""
    found = _browser()
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if found is None and os.environ.get("CI") and root and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL)
        found = _browser()
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


def run(browser: str, folder: Path, page: Path, *options: str, width: int = 1000) -> str:
    """Open a page from a file and give what the browser prints; every host name is unknown to it."""
    fixed = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={width},1400",
    )
    offline = ("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}")
    command = [browser, *fixed, *offline, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.fixture
def page(broken: Broken, tmp_path: Path) -> Path:
    broken.torch("2.0.1+cu117", "11.7", FIXTURES / "optional-unit.so")
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    broken.distribution("torch-scatter", "2.1.2+pt20cu118")
    file = tmp_path / "doctor.html"
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "doctor"]
    asked = ["--env", str(broken.root), "--gpu", "RTX 5090", "--gpu", "H200", "--html", str(file)]
    subprocess.run([*command, *asked, "--lang", "en"], check=False)
    return file


def test_what_a_person_reads(browser: str, page: Path, tmp_path: Path) -> None:
    seen = run(browser, tmp_path, page, "--dump-dom")
    for text in (
        "no-kernel-image",
        "sm_120 is not compatible with the current PyTorch installation",
        "local-version-contradiction",
        "no kernel image</td>",
        "Errors: ",
    ):
        assert text in seen, text


@pytest.mark.parametrize("width", [1000, 500])
def test_nothing_stands_over_the_edge(browser: str, page: Path, tmp_path: Path, width: int) -> None:
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", _MEASURE), encoding="utf-8")
    seen = run(browser, tmp_path, page, "--dump-dom", width=width)
    title = re.search(r"<title>(\d+)</title>", seen)
    assert title
    assert int(title[1]) <= width


def pixels(file: Path) -> tuple[int, int, bytes]:
    """(width, height, bytes of the filtered rows) of a PNG (W3C, «PNG Specification»)."""
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return width, height, zlib.decompress(packed)


def test_the_picture_is_not_empty(browser: str, page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    run(browser, tmp_path, page, f"--screenshot={picture}")
    width, height, rows = pixels(picture)
    assert (width, height) == (1000, 1400)
    assert len(set(rows)) > 50, "letters and coloured bars leave many values"
