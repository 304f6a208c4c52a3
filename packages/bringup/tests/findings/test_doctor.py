"""The verb: exit codes, JSON, HTML, redaction, through the real program."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from rich.cells import cell_len

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
    # One chip by two of its names is judged once.
    ran = doctor("--env", str(broken.root), "--gpu", "H200", "--gpu", "h200", "--json")
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


def test_a_fix_on_several_lines_can_be_copied(broken: Broken) -> None:
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    asked = ("--env", str(broken.root), "--gpu", "H200")
    shown = doctor(*asked).stdout.partition("    → ")[2].rstrip()
    (finding,) = json.loads(doctor(*asked, "--json").stdout)["findings"]
    # The shell that the lines are pasted into says which words it understood.
    words = subprocess.run(["sh", "-c", f"printf '%s\n' {shown}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == shlex.split(finding["fix"])


def test_chinese_facts_stand_in_a_column(broken: Broken) -> None:
    facts = doctor("--env", str(broken.root), "--lang", "zh").stdout.split("\n\n")[0].splitlines()[1:]
    names = [re.match(r"  \S+(?: \S+)?  +", line) for line in facts if line[2] != " "]
    assert len({cell_len(name[0]) for name in names if name}) == 1


def valid(document: object) -> None:
    schema = resources.files("bringup.report") / "schemas" / "doctor.json"
    jsonschema.validate(document, json.loads(schema.read_text(encoding="utf-8")))


def test_json_follows_its_schema(broken: Broken, tmp_path: Path) -> None:
    broken.torch("2.7.0+cu128", "12.8", FIXTURES / "many.so")
    broken.distribution("fast-thing", "1.0", {"fast_thing/_C.so": FIXTURES / "two-units.so"})
    project = tmp_path / "project"
    project.mkdir()
    (project / "setup.py").write_text("from torch.utils.cpp_extension import CUDAExtension\n")
    (project / "requirements.txt").write_text("torch==2.0.1\n")
    arguments = ("--env", str(broken.root), "--project", str(project), "--gpu", "5090", "--gpu", "sm_90")
    page = tmp_path / "doctor.html"
    document = json.loads(doctor(*arguments, "--json", "--html", str(page)).stdout)
    valid(document)
    assert "compilers" in document["facts"]
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    document["findings"][0]["evidence"] = []
    with pytest.raises(jsonschema.ValidationError):
        valid(document)


@pytest.mark.parametrize("content", [b"print 'Python 2'\n", b"\0\0\0", None], ids=["old", "zeros", "no file"])
def test_what_cannot_be_read_of_a_project_is_listed(tmp_path: Path, content: bytes | None) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "good.py").write_text("import json\n")
    if content is None:
        (project / "bad.py").symlink_to("/nowhere/at/all.py")
    else:
        (project / "bad.py").write_bytes(content)
    ran = doctor("--project", str(project), "--json")
    assert ran.returncode == 3
    (row,) = json.loads(ran.stdout)["facts"]["project"]["unreadable"]
    assert row["path"] == "bad.py"
    assert row["reason"]
    if content is None:
        assert "bad.py" in doctor("--project", str(project)).stdout


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
