"""What the built-in recipes say of their workloads: error texts that `explain` knows, and what stays unrepaired."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bringup.findings.error_texts import error_texts, explain
from bringup.recipes import built_in, load
from bringup.recipes.schema import Failure

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]
FAILURES = [(name, row) for name in built_in() for row in load(name).failures]


@pytest.mark.parametrize(("name", "row"), FAILURES, ids=[f"{name}: {row.text}" for name, row in FAILURES])
def test_explain_knows_each_failure_of_a_recipe(name: str, row: Failure) -> None:
    """The same text is told by `explain`, as people see it, and under the id that the recipe names."""
    assert row.finding in {known.id for known in error_texts()}
    seen = [row.text, f"AttributeError: 'GATv2Conv' object has no attribute '{row.text}'"]
    assert any(row.finding in {known.id for known in explain(text.encode())} for text in seen)
    assert row.why.en and row.why.zh


@pytest.mark.parametrize(
    ("language", "said"), [("en", "Not repaired: the BOLD branch"), ("zh", "未修复：BOLD 分支")]
)
def test_an_image_says_what_it_does_not_repair(language: str, said: str, tmp_path: Path) -> None:
    words = [
        "--lang",
        language,
        "image",
        "deepprep",
        "--gpu",
        "RTX 5090",
        "--offline",
        "-o",
        str(tmp_path / "i"),
    ]
    variables = os.environ | {"LC_ALL": "C.UTF-8", "BRINGUP_HOME": str(tmp_path / "home")}
    ran = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=variables, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert said in ran.stdout and "TensorRT" in ran.stdout
    assert "torch 2.0.1+cu118" in ran.stdout and "torch-sparse 0.6.18+pt20cu118" in ran.stdout


MINE = """\
schema = "bringup/recipe/1"
name = "mine"
title = { en = "t", zh = "t" }
summary = { en = "s", zh = "s" }
python = ">=3.10"
torch = { range = ">=2.0" }
limits = [{ en = "the [moon]", zh = "月" }]
needs = { gpu = "optional" }
probes = [{ name = "imports", imports = ["torch"] }]
[[stages]]
name = "go"
title = { en = "Go", zh = "走" }
command = ["python", "-c", "print('flux capacitor is empty'); raise SystemExit(3)", "{arguments}"]
modes = ["arguments"]
[[failures]]
text = "flux capacitor"
finding = "killed"
why = { en = "fill it with [banana] peel", zh = "请加注" }
"""


@pytest.mark.slow
def test_a_stage_that_fails_is_told_what_its_recipe_knows(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE, encoding="utf-8")
    words = ["up", str(tmp_path / "mine.toml"), "--cpu", "--overlay", sys.prefix, "--", "x"]
    variables = os.environ | {"LC_ALL": "C.UTF-8", "BRINGUP_HOME": str(tmp_path / "home")}
    ran = subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=variables, timeout=300)
    assert ran.returncode == 1
    assert "fill it with [banana] peel" in ran.stderr and "flux capacitor is empty" in ran.stderr
