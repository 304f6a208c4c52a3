"""The verb: exit codes, JSON, HTML, redaction, through the real program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import FIXTURES, Broken


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")
    }
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", "doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment | {"LC_ALL": "C.UTF-8"} | variables
    )


def test_healthy_and_broken(broken: Broken, tmp_path: Path) -> None:
    broken.torch("2.7.0+cu128", "12.8", FIXTURES / "many.so")
    assert doctor("--env", str(broken.root), "--gpu", "RTX 5090").returncode == 0
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    ran = doctor("--env", str(broken.root), "--gpu", "H200", "--json")
    assert ran.returncode == 1
    document = json.loads(ran.stdout)
    assert document["schema"] == "bringup/doctor/1"
    (finding,) = document["findings"]
    assert finding["id"] == "no-kernel-image"
    assert set(finding) >= {"id", "severity", "subject", "evidence", "error_text", "fix"}
    assert document["facts"]["environment"]["torch"]["cuda"] == "12.8"


def test_json_is_the_same_in_every_language(broken: Broken) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    answers = [
        json.loads(doctor("--env", str(broken.root), "--gpu", "H200", "--json", "--lang", language).stdout)[
            "findings"
        ]
        for language in ("en", "zh")
    ]
    assert answers[0] == answers[1]


def test_chinese_console(broken: Broken) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    assert "不含" in doctor("--env", str(broken.root), "--gpu", "H200", "--lang", "zh").stdout


def test_console_fits_80_columns(broken: Broken) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    lines = doctor("--env", str(broken.root), "--gpu", "H200").stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_usage(tmp_path: Path) -> None:
    assert doctor("--env", str(tmp_path / "nothing")).returncode == 2
    assert doctor("--project", str(tmp_path / "nothing")).returncode == 2
    assert doctor("--env", str(tmp_path), "--image", "x.tar").returncode == 2
    assert doctor("--gpu", "RTX 9999").returncode == 2


def test_page_is_self_contained(broken: Broken, tmp_path: Path) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    page = tmp_path / "doctor.html"
    assert doctor("--env", str(broken.root), "--gpu", "H200", "--html", str(page)).returncode == 1
    text = page.read_text(encoding="utf-8")
    assert "no-kernel-image" in text
    assert "src=" not in text
    assert "href=" not in text


def test_shared_bundle_hides_people_and_places(broken: Broken, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.json"
    home = tmp_path / "home" / "alice-secret"
    home.mkdir(parents=True)
    index = "https://alice:token@mirror.example.org/simple"
    ran = doctor(
        "--env",
        str(broken.root),
        "--share",
        str(bundle),
        HOME=str(home),
        PIP_INDEX_URL=index,
        BRINGUP_HOME=str(home / "state"),
    )
    assert ran.returncode == 0, ran.stderr
    text = bundle.read_text(encoding="utf-8")
    assert "alice" not in text
    assert "token" not in text
    assert "mirror.example.org" not in text
