"""What a proof saw is told in the reader's language; its JSON is the same in all."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bringup.report import messages
from bringup.report.tables import check_seen, proof_table
from bringup.steps.verify import Check, Proof, read_proof, write_proof

COMMAND = [sys.executable, "-c", "from bringup.cli.main import main; main()"]


def test_verify_in_chinese() -> None:
    """This very environment, whose torch is a CPU build or a CUDA build."""
    environment = os.environ | {"LC_ALL": "C.UTF-8", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    answers = [
        subprocess.run(
            [*COMMAND, "--lang", language, "verify", "--env", sys.prefix],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        ).stdout
        for language in ("en", "zh")
    ]
    assert "relative error" in answers[0]
    assert "相对误差" in answers[1]
    assert not {"relative", "error", "build", "imports"} & set(answers[1].split())


@pytest.mark.parametrize("status", ["machine-code", "ptx", "partial", "no"])
def test_every_status_has_words(status: str) -> None:
    check = Check("architectures", "a.so on sm_120", True, status, f"runs-{status}", {"images": "sm_90"})
    console = Console(file=io.StringIO(), width=200)
    console.print(proof_table(Proof((check,))))
    assert "sm_90" in check_seen(check)
    assert "sm_120" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_proof_comes_back_from_its_file(tmp_path: Path) -> None:
    proof = Proof((Check("import", "torch", True, "2.13.0"), Check("a", "b", False, "c", "no-answer")))
    write_proof(proof, tmp_path / "proof.json")
    assert read_proof(tmp_path / "proof.json") == proof
    old = {"checks": [{"id": "import", "subject": "torch", "ok": True, "detail": "2.13.0"}]}
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert read_proof(tmp_path / "old.json").holds
    assert messages.say("seen.no-answer")
