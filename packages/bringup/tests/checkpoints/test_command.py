"""`bringup convert` as people and programs call it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch

from bringup.cli.main import run
from bringup.report.messages import choose_language

from . import attacks


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    yield
    choose_language(None)


def matches(schema: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that our schemas use."""
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
    }
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return False
    if "oneOf" in schema:
        return sum(matches(inner, value) for inner in schema["oneOf"]) == 1
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if not set(schema.get("required", [])) <= set(value):
            return False
        if schema.get("additionalProperties") is False and not set(value) <= set(known):
            return False
        extra = schema.get("additionalProperties", {})
        rules = [
            (known.get(key, extra if isinstance(extra, dict) else {}), part) for key, part in value.items()
        ]
        return all(matches(rule, part) for rule, part in rules)
    return all(matches(schema.get("items", {}), part) for part in value) if isinstance(value, list) else True


def schema(name: str) -> dict[str, Any]:
    text = (resources.files("bringup.report") / "schemas" / f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def test_convert_says_what_it_made(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save({"state_dict": torch.nn.Linear(2, 2).state_dict()})
    assert run(["convert", str(path), "-o", str(tmp_path / "out"), "--lang", "en"]) == 0
    assert "model.pt: 2 tensors" in capsys.readouterr().out
    assert run(["convert", str(path), "-o", str(tmp_path / "out"), "--lang", "zh"]) == 0
    assert "2 个张量" in capsys.readouterr().out


def test_json_documents_follow_their_schemas(
    save: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = save({"model": torch.nn.Linear(2, 2), "epoch": 3}, name="good.pt")
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"")
    out = tmp_path / "out"
    assert run(["convert", str(good), str(bad), "-o", str(out), "--json"]) == 1
    converted = json.loads(capsys.readouterr().out)
    assert matches(schema("convert"), converted)
    assert [row["ok"] for row in converted["checkpoints"]] == [True, False]
    assert run(["convert", "--inspect", str(good), str(bad), "--json"]) == 1
    inspected = json.loads(capsys.readouterr().out)
    assert matches(schema("inspect"), inspected)
    assert matches(schema("checkpoint"), json.loads((out / "good.json").read_text(encoding="utf-8")))
    assert not matches(schema("convert"), {**converted, "schema": "other"})


@pytest.mark.parametrize(
    "value, verdict, code",
    [
        ({"w": torch.ones(1)}, "tensors and containers only", 0),
        (torch.nn.Linear(1, 1), "unknown classes", 0),
        ({"w": torch.ones(1), "x": attacks.Reducing(eval, ("1",))}, "calls that no checkpoint needs", 1),
    ],
)
def test_inspect_prints_tree_globals_and_verdict(
    value: Any, verdict: str, code: int, save: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["convert", "--inspect", str(save(value)), "--lang", "en"]) == code
    text = capsys.readouterr().out
    assert f"Verdict: {verdict}" in text and "float32 [1" in text
    assert "collections.OrderedDict" in text


def test_inspect_of_every_attack_names_its_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in attacks.write_all(tmp_path / "evil") if path.stem in attacks.CALLS]
    assert run(["convert", "--inspect", "--json", *paths]) == 1
    rows = json.loads(capsys.readouterr().out)["checkpoints"]
    verdicts = {row["verdict"] for row in rows if row["ok"]}
    refused = {row["error"]["id"] for row in rows if not row["ok"]}
    assert verdicts == {"unneeded-calls"} and refused <= {"checkpoint-malformed"}


def test_neither_torch_nor_numpy_is_imported(save: Callable[..., Path], tmp_path: Path) -> None:
    path = save({"model": torch.nn.Linear(2, 2)})
    code = (
        "import sys; from bringup.cli.main import run; "
        f"assert run(['convert', {str(path)!r}, '-o', {str(tmp_path / 'out')!r}]) == 0; "
        "sys.exit(bool({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_usage_errors() -> None:
    assert run(["convert"]) == 2
    assert run(["convert", "x.pt", "--unknown"]) == 2


@pytest.mark.parametrize("extra", [[], ["--json"], ["--inspect"], ["--inspect", "--json"]])
def test_names_that_are_no_text_are_shown(extra: list[str], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a\udcff.pkl"
    path.write_bytes(b"\x80\x04}\x8c\x03\xed\xa0\x80K\x01s.")
    assert run(["convert", str(path), "-o", str(tmp_path / "out"), *extra]) == 0
    output = capsys.readouterr().out
    assert output.encode("utf-8", "surrogateescape") and ("--json" not in extra or json.loads(output))
