"""Projects of every kind, really compiled with nvcc from wheels, and what came out read back."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

from .conftest import Bringup
from .projects import CMAKE_MODULE, cmake_project, scikit_project, setuptools_project


def follows_schema(document: dict[str, object]) -> None:
    text = (resources.files("bringup.report") / "schemas" / "build.json").read_text(encoding="utf-8")
    jsonschema.validate(document, json.loads(text))


def test_setuptools_project_carries_what_was_asked_for(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = setuptools_project(tmp_path / "source")
    before = sorted(path.name for path in source.rglob("*"))
    answer = bringup(
        "build", source, "--env", environment, "--arch", "8.0;12.0+PTX", "-o", tmp_path, "--json"
    )
    assert answer.code == 0, answer.errors + answer.output
    follows_schema(answer.document)
    row = answer.first
    assert row["binaries"][0]["machine_code"] == ["sm_80", "sm_120"]
    assert row["binaries"][0]["ptx"] == ["compute_120"]
    assert row["binaries"][0]["runs_on"]["sm_120"] == "machine-code"
    assert row["imported"] is True
    assert row["attempts"][0]["peak"] > 20 << 20, "compilers take more than that"
    assert Path(row["product"]).is_file()
    assert sorted(path.name for path in source.rglob("*")) == before, "the user's source stays as it is"


def test_second_build_comes_from_the_cache(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    source = setuptools_project(tmp_path / "source")
    words = ("build", source, "--env", environment, "--gpu", "RTX 5090", "-o", tmp_path, "--json")
    first, second = bringup(*words).first, bringup(*words).first
    assert not first["cached"]
    assert second["cached"]
    assert second["attempts"] == []
    assert second["sha256"] == first["sha256"]


@pytest.mark.slow
def test_what_a_build_depends_on_makes_another_build(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = setuptools_project(tmp_path / "source")
    words = ("build", source, "--env", environment, "-o", tmp_path, "--json")
    assert not bringup(*words, "--gpu", "RTX 5090").first["cached"]
    assert not bringup(*words, "--gpu", "H200").first["cached"], "another architecture"
    assert not bringup(*words, "--gpu", "H200", CFLAGS="-O1").first["cached"], "another flag"
    (source / "module.cu").write_text((source / "module.cu").read_text() + "// changed\n")
    assert not bringup(*words, "--gpu", "RTX 5090").first["cached"], "another source"
    assert not bringup(*words, "--gpu", "RTX 5090", "--fresh").first["cached"], "asked for"
    assert bringup(*words, "--gpu", "RTX 5090").first["cached"]


@pytest.mark.slow
def test_scikit_project_hears_of_the_architectures(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = scikit_project(tmp_path / "source")
    answer = bringup(
        "build", source, "--env", environment, "--arch", "sm_90,sm_120", "-o", tmp_path, "--json"
    )
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["kind"] == "scikit-build-core"
    assert answer.first["binaries"][0]["machine_code"] == ["sm_90", "sm_120"]
    assert answer.first["modules"] == ["by_scikit"]


@pytest.mark.slow
def test_plain_cmake_library_is_delivered_as_a_folder(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = cmake_project(tmp_path / "source")
    answer = bringup("build", source, "--env", environment, "--gpu", "RTX 5090", "-o", tmp_path, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["binaries"][0]["machine_code"] == ["sm_120"]
    assert (Path(answer.first["product"]) / "libonly_cmake.so").is_file()


@pytest.mark.slow
def test_plain_cmake_module_becomes_a_wheel(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    cmake = CMAKE_MODULE.replace("install(TARGETS NAME DESTINATION .)", "")
    source = cmake_project(tmp_path / "source", "bare_module", cmake)
    answer = bringup("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["product"].endswith(".whl")
    assert answer.first["modules"] == ["bare_module"]


@pytest.mark.parametrize(
    "flags", ["-arch=sm_80", pytest.param("-gencode=arch=compute_80,code=sm_80", marks=pytest.mark.slow)]
)
def test_architectures_that_the_source_pins_are_added_to(
    bringup: Bringup, environment: Path, tmp_path: Path, flags: str
) -> None:
    source = setuptools_project(tmp_path / "source", flags=flags)
    answer = bringup("build", source, "--env", environment, "--gpu", "RTX 5090", "-o", tmp_path, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["binaries"][0]["machine_code"] == ["sm_80", "sm_120"]
    assert len(answer.first["attempts"]) == 1, "seen in the source, not found out afterwards"


@pytest.mark.slow
def test_pin_that_nobody_can_see_is_found_by_the_scan(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    """The flag is put together at run time; the first binary lacks sm_120, the second attempt does not."""
    hidden = CMAKE_MODULE.replace(
        "install(",
        'set(word "ARCHITECTURES")\nset_target_properties(NAME PROPERTIES CUDA_${word} 80)\ninstall(',
    )
    source = scikit_project(tmp_path / "source", "hidden_pin", hidden)
    answer = bringup("build", source, "--env", environment, "--gpu", "RTX 5090", "-o", tmp_path, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert [row["outcome"] for row in answer.first["attempts"]] == ["architecture", "built"]
    assert "sm_120" in answer.first["binaries"][0]["machine_code"]
