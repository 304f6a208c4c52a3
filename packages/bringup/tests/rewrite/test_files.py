"""Files as they are met: encodings, notebooks, broken code, checkpoints beside the code, undo, the command."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from bringup.errors import BringupError
from bringup.steps.rewrite import rewrite, undo
from bringup.steps.rewrite.evidence import needs_more

CALL, MADE_SAFE = "torch.load(p)", "torch.load(p, weights_only=True)"


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path_factory.mktemp("home")))


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from bringup.cli.main import main; main()", *map(str, arguments)]
    environment = os.environ | {"LC_ALL": "C.UTF-8", "BRINGUP_LANG": "en"} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("latin-1", "# café"),
        ("cp1252", "# “quoted” – café"),
        ("gbk", "# 加载模型"),
        ("utf-8", "# 模型 \U0001f600"),
        ("shift_jis", "# モデル"),
        ("koi8-r", "# модель"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_encoding_and_line_endings_stay(encoding: str, words: str, ending: str, tmp_path: Path) -> None:
    text = f"# -*- coding: {encoding} -*-\nimport torch\n{words}\nx = {CALL} {words}\n\n\n\ty = 1".replace(
        "\ty", "y"
    )
    data = text.replace("\n", ending).encode(encoding)
    (tmp_path / "a.py").write_bytes(data)
    assert not rewrite(tmp_path).unparsable
    assert (tmp_path / "a.py").read_bytes() == data.replace(CALL.encode(), MADE_SAFE.encode())


def test_mixed_line_endings_and_no_last_one_stay(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbfimport torch\r\na = 1\n\x0cx = torch.load(\r\n  p,\r\n)\r\ny = torch.load(p)"
    (tmp_path / "a.py").write_bytes(data)
    rewrite(tmp_path)
    expected = data.replace(b"  p,\r\n", b"  p,\r\n  weights_only=True,\r\n").replace(
        CALL.encode(), MADE_SAFE.encode()
    )
    assert (tmp_path / "a.py").read_bytes() == expected


@pytest.mark.parametrize(
    "data",
    [
        b"import torch\nprint torch.load(p)\n",
        b"import torch\nx = torch.load(p\n",
        b"# coding: nonsense\nimport torch\ntorch.load(p)\n",
        b"import torch\n# \xff\ntorch.load(p)\n",
        b"import torch\ntorch.load(p)\n\x00",
    ],
)
def test_unparsable_files_are_listed_and_untouched(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_bytes(data)
    (tmp_path / "new.py").write_text(f"import torch\n{CALL}\n")
    result = rewrite(tmp_path)
    assert [path.name for path, _ in result.unparsable] == ["old.py"]
    assert (tmp_path / "old.py").read_bytes() == data
    assert MADE_SAFE in (tmp_path / "new.py").read_text()


def test_what_is_searched(tmp_path: Path) -> None:
    inside = ["a.py", "gui.pyw", "build/b.py", "x/env/c.py", "tool"]
    outside = [".git/h.py", "venv/v.py", "lib/site-packages/s.py", "notes.txt", "script.sh"]
    for name in inside + outside:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(("#!/usr/bin/env python3\n" if name == "tool" else "") + f"import torch\n{CALL}\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    changed = {file.path.relative_to(tmp_path).as_posix() for file in rewrite(tmp_path).files}
    assert changed == set(inside)
    assert (tmp_path / "link.py").is_symlink()


def test_permissions_stay(tmp_path: Path) -> None:
    file = tmp_path / "run.py"
    file.write_text(f"import torch\n{CALL}\n")
    file.chmod(0o755)
    rewrite(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o755


NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["`torch.load(p)` is \"unsafe\"\n"]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "%matplotlib inline\n!pip install x\nimport torch as t"},
        {"cell_type": "code", "metadata": {}, "outputs": ["t.load(p)"], "source": [
            "# \"é\" 模型 \U0001f600 \\ tab\t\n", "x = t.load(p)\n", "y = t.load('a\\n.pt')"]},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "%%bash\nt.load(p)"},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "%%time\nz = t.load(\n    p,\n)\nz?"},
        {"cell_type": "code", "metadata": {}, "outputs": [], "source": "torch = 1; w = t.load(p"},
    ],
    "nbformat": 4, "nbformat_minor": 5, "metadata": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "options", [{"indent": 1, "ensure_ascii": False}, {"indent": None}, {"indent": "\t"}]
)
def test_notebooks_keep_every_other_byte(options: dict[str, object], tmp_path: Path) -> None:
    text = json.dumps(NOTEBOOK, **options)  # type: ignore[arg-type]
    (tmp_path / "a.ipynb").write_text(text, encoding="utf-8")
    result = rewrite(tmp_path)
    written = (tmp_path / "a.ipynb").read_text(encoding="utf-8")
    assert written.replace(", weights_only=True", "") == text
    sources = ["".join(cell["source"]) for cell in json.loads(written)["cells"]]
    assert "x = t.load(p, weights_only=True)\ny = t.load('a\\n.pt', weights_only=True)" in sources[2]
    assert sources[4] == "%%time\nz = t.load(\n    p, weights_only=True,\n)\nz?"
    assert [reason.startswith("cell 6") for _, reason in result.unparsable] == [True]


class Mine:
    pass


CHECKPOINTS = {
    "state dict": {"a.weight": torch.zeros(2, 3), "n": 3, "s": "x"},
    "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3))]).state_dict(),
    "half and device": [torch.zeros(2).half(), torch.device("cpu"), torch.Size([1]), torch.float16],
    "ordered": OrderedDict(a=torch.zeros(1), b={1, 2}),
    "module": torch.nn.Linear(2, 2),
    "class": {"x": Mine()},
    "path": {"p": Path("a")},
    "numpy": {"x": torch.zeros(3).numpy()},
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("new_format", [True, False])
def test_evidence_agrees_with_torch(name: str, new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save(CHECKPOINTS[name], path, _use_new_zipfile_serialization=new_format)
    try:
        torch.load(path, weights_only=True)
        opens = True
    except pickle.UnpicklingError:
        opens = False
    assert (needs_more(path) is None) == opens


@pytest.mark.parametrize(
    "expression",
    [
        "'models/lh_Rigid_3.model'",
        "os.path.join(root, 'models', f'{hemi}_Rigid_{n}.model')",
        "root / 'models' / (hemi + '_Rigid_3.model')",
        "'%s_Rigid_%d.model' % (hemi, n)",
        "'models/{}_Rigid_{}.model'.format(hemi, n)",
        "str(Path(root) / f'{hemi}_Rigid_3.model')",
        "named",
    ],
)
def test_a_checkpoint_that_needs_more_is_listed_with_the_command(expression: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "models" / "lh_Rigid_3.model")
    torch.save({"a": torch.zeros(2)}, tmp_path / "models" / "other.model")
    code = f"import torch\nnamed = 'lh_Rigid_3.model'\na = torch.load({expression})\nb = torch.load('models/other.model')\n"
    (tmp_path / "a.py").write_text(code)
    left, added = rewrite(tmp_path).files[0].calls
    assert (left.action, left.reason) == ("left", "checkpoint")
    assert left.checkpoint == str(tmp_path.resolve() / "models" / "lh_Rigid_3.model")
    assert left.command == f'bringup convert "{left.checkpoint}" -o converted_models'
    assert left.refused and left.refused.startswith("torch.nn.modules")
    assert added.action == "added-true"
    assert (tmp_path / "a.py").read_text() == code.replace(
        "other.model')", "other.model', weights_only=True)"
    )


def test_allow_pickle_opens_one_call(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"import torch\n{CALL}\n{CALL}\n{CALL}; {CALL}\n")
    with pytest.raises(BringupError, match="allow-pickle-several"):
        rewrite(tmp_path, ["a.py:4"])
    assert MADE_SAFE not in (tmp_path / "a.py").read_text()
    rewrite(tmp_path, ["a.py:3", "a.py:4:16"])
    opened = MADE_SAFE.replace("True", "False")
    expected = f"import torch\n{MADE_SAFE}\n{opened}\n{MADE_SAFE}; {opened}\n"
    assert (tmp_path / "a.py").read_text() == expected
    rewrite(tmp_path, [f"{tmp_path / 'a.py'}:2"])
    assert (tmp_path / "a.py").read_text() == expected.replace(MADE_SAFE, opened, 1)
    for _ in range(2):
        undo(tmp_path)
    assert (tmp_path / "a.py").read_text() == f"import torch\n{CALL}\n{CALL}\n{CALL}; {CALL}\n"


@pytest.mark.parametrize(("wish", "id"), [("a.py:9", "nothing"), ("b.py:2", "nothing"), ("a.py", "form")])
def test_a_wrong_allow_pickle_writes_nothing(wish: str, id: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"import torch\n{CALL}\n")
    with pytest.raises(BringupError, match=f"allow-pickle-{id}"):
        rewrite(tmp_path, [wish])
    assert (tmp_path / "a.py").read_text() == f"import torch\n{CALL}\n"


def test_undo_leaves_what_was_changed_since(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_bytes(f"import torch\r\n{CALL}\r\n".encode())
    rewrite(tmp_path)
    with (tmp_path / "b.py").open("ab") as stream:
        stream.write(b"# mine\n")
    undone = undo(tmp_path)
    assert (tmp_path / "a.py").read_bytes() == f"import torch\r\n{CALL}\r\n".encode()
    assert [path.name for path in undone.changed] == ["b.py"]
    with pytest.raises(BringupError, match="nothing-to-undo"):
        undo(tmp_path)


def test_the_diff_is_what_patch_applies(tmp_path: Path) -> None:
    folder, copy = tmp_path / "one", tmp_path / "two"
    for place in (folder, copy):
        place.mkdir()
        (place / "crlf.py").write_bytes(b"import torch\r\n\x0ca = torch.load(p)\r\n")
        (place / "last.py").write_bytes("# é\nimport torch\ntorch.load(p)".encode())
        (place / "latin.py").write_bytes(
            "# coding: latin-1\n# é\nimport torch\ntorch.load(p)\n".encode("latin-1")
        )
    command = [
        sys.executable,
        "-c",
        "from bringup.cli.main import main; main()",
        "rewrite",
        str(folder),
        "--diff",
    ]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    assert (folder / "last.py").read_bytes() == (copy / "last.py").read_bytes()
    subprocess.run(["git", "apply", "--whitespace=nowarn", "-"], input=shown, cwd=copy, check=True)
    rewrite(folder)
    for name in ("crlf.py", "last.py", "latin.py"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"import torch\n{CALL}\n{CALL[:-1]}, **o)\n")
    shown = json.loads(run("rewrite", tmp_path, "--diff", "--json").stdout)
    assert not shown["written"]
    assert MADE_SAFE not in (tmp_path / "a.py").read_text()
    done = run("rewrite", tmp_path, "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "bringup/rewrite/1"
    assert [call["action"] for call in document["calls"]] == ["added-true", "left"]
    assert document["files"] == ["a.py"]
    assert done.returncode == 0
    assert "**" in run("rewrite", tmp_path).stdout
    assert run("rewrite", tmp_path, "--undo").returncode == 0
    assert (tmp_path / "a.py").read_text() == f"import torch\n{CALL}\n{CALL[:-1]}, **o)\n"
    assert run("rewrite", tmp_path, "--undo", "--diff").returncode == 2
    assert run("rewrite", tmp_path / "nowhere").returncode == 2
    assert "撤销" in run("rewrite", tmp_path, BRINGUP_LANG="zh").stdout
