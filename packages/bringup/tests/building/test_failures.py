"""Compilers that are really killed, limits that are really too low, devices that are really full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bringup.facts.toolchains import find_host_compilers, link_time_optimisation_works

from .conftest import Answer, Bringup
from .projects import CMAKE_MODULE, KERNEL, cmake_project, scikit_project, setuptools_project

TWO_UNITS = """\
cmake_minimum_required(VERSION 3.18)
project(NAME VERSION 1.0 LANGUAGES CXX)
enable_language(CUDA)
add_library(NAME SHARED kernel.cu other.cu)
"""

# Killed by the system when another of its kind runs: what too many jobs in too little memory look like.
KILLED_BESIDE_ANOTHER = """\
#!/bin/bash
mkdir "LOCK" 2>/dev/null || kill -KILL $$
trap 'rmdir "LOCK"' EXIT
sleep 2
"REAL" "$@"
"""
KILLED = """\
#!/bin/bash
case "$*" in *probe.cu*|*probe.cpp*) exec "REAL" "$@";; esac
kill -KILL $$
"""
CRASHES = KILLED.replace("KILL $$", "SEGV $$")
# /dev/full is a device without space: writing to it fails as on a full disk.
DISK_FULL = """\
#!/bin/bash
case "$*" in *probe.cu*|*probe.cpp*) exec "REAL" "$@";; esac
echo code > /dev/full || exit 1
"""


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def toolkit_with(bringup: Bringup, folder: Path, cicc: str) -> Path:
    """The toolkit of the tests, its device compiler replaced by a script around the real one."""
    root = Path(bringup("toolkit", "install", "13.0", "--json").document["root"])
    shutil.copytree(root, folder, symlinks=True, copy_function=_link)
    program = folder / "nvvm" / "bin" / "cicc"
    program.unlink()
    text = cicc.replace("REAL", str(root / "nvvm" / "bin" / "cicc")).replace("LOCK", f"{folder}.lock")
    program.write_text(text)
    program.chmod(0o755)
    return folder


def two_units(folder: Path) -> Path:
    source = cmake_project(folder, "two_units", TWO_UNITS)
    (source / "other.cu").write_text((source / "kernel.cu").read_text().replace("shift", "other"))
    return source


def error_of(answer: Answer) -> str:
    """The id of the one build's error."""
    id: str = answer.first["error"]["id"]
    assert answer.first["error"]["text"]
    return id


@pytest.mark.slow
def test_killed_compiler_is_tried_again_with_fewer_jobs(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = two_units(tmp_path / "source")
    toolkit = toolkit_with(bringup, tmp_path / "cuda", KILLED_BESIDE_ANOTHER)
    words = ("build", source, "--env", environment, "--arch", "9.0", "--jobs", "2", "-o", tmp_path)
    answer = bringup(*words, "--toolkit", toolkit, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert [(row["jobs"], row["outcome"]) for row in answer.first["attempts"]] == [
        (2, "memory"),
        (1, "built"),
    ]


# Killed once, while CMake tries what the compiler is.
KILLED_ONCE_BY_CMAKE = """\
#!/bin/bash
case "$*" in *CMakeCUDACompilerId*) mkdir "LOCK" 2>/dev/null && kill -KILL $$;; esac
exec "REAL" "$@"
"""


@pytest.mark.slow
def test_compiler_killed_while_cmake_configures_is_tried_again(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = scikit_project(tmp_path / "source")
    toolkit = toolkit_with(bringup, tmp_path / "cuda", KILLED_ONCE_BY_CMAKE)
    words = ("build", source, "--env", environment, "--arch", "9.0", "--jobs", "2", "-o", tmp_path)
    answer = bringup(*words, "--toolkit", toolkit)
    assert answer.code == 0, answer.errors + answer.output
    assert "again with fewer jobs" in answer.errors, "told while it happens"
    assert "1 jobs" in answer.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cicc", "id"),
    [(KILLED, "build-out-of-memory"), (DISK_FULL, "no-space"), (CRASHES, "build-failed")],
)
def test_what_cannot_be_mended_is_one_clear_error(
    bringup: Bringup, environment: Path, tmp_path: Path, home: Path, cicc: str, id: str
) -> None:
    source = setuptools_project(tmp_path / "source")
    toolkit = toolkit_with(bringup, tmp_path / "cuda", cicc)
    output = tmp_path / "output"
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", output, "--toolkit", toolkit)
    answer = bringup(*words, "--json")
    assert answer.code == 1
    assert error_of(answer) == id
    assert not output.exists()
    assert list((home / "cache" / "builds").glob("*.log")), "the log is kept"
    assert not list((home / "cache" / "builds").glob(".*.work")), "the half-built tree is not"


@pytest.mark.slow
def test_limit_of_address_space_ends_with_one_job_and_an_error(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    """A real limit (`ulimit -v`) and a source that really needs more."""
    source = setuptools_project(tmp_path / "source")
    table = ",".join(str(number % 97) for number in range(4_000_000))
    (source / "module.cu").write_text(
        (source / "module.cu").read_text() + f"extern const int table[] = {{{table}}};\n"
    )
    limited = ("bash", "-c", 'ulimit -v 700000; exec "$0" "$@"')
    words = ("build", source, "--env", environment, "--arch", "9.0", "--jobs", "4", "-o", tmp_path)
    answer = bringup(*words, "--json", prefix=limited)
    assert answer.code == 1, answer.output
    assert error_of(answer) == "build-out-of-memory"


def test_errors_of_the_source_are_told_and_the_log_is_kept(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = setuptools_project(tmp_path / "source")
    (source / "module.cu").write_text("#error this chip is not for sale\n")
    answer = bringup("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path)
    assert answer.code == 1
    assert "this chip is not for sale" in answer.errors
    assert "Traceback" not in answer.errors + answer.output


@pytest.mark.slow
def test_one_bad_source_does_not_stop_the_others(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    good = setuptools_project(tmp_path / "good")
    words = ("--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    answer = bringup("build", tmp_path / "nowhere", good, *words)
    assert answer.code == 2
    assert [row["ok"] for row in answer.document["builds"]] == [False, True]


@pytest.mark.parametrize(
    ("words", "id"),
    [
        (("--arch", "8.0", "--gpu", "RTX 5090"), "arch-not-for-gpu"),
        (("--arch", "fast"), "arch-unreadable"),
        (("--arch", ";;"), "arch-unreadable"),
        (("--arch", "9.9"), "no-cuda-for-architecture"),
        (("--arch", "7.0", "--toolkit", "wheels"), "no-cuda-toolkit"),
        (("--gpu", "RTX 9999"), "unknown-gpu"),
        (("--arch", "9.0", "--toolkit", "/nowhere"), "no-toolkit-there"),
        (("--arch", "9.0", "--jobs", "0"), "build-jobs"),
    ],
)
def test_contradictory_and_impossible_wishes(
    bringup: Bringup, environment: Path, tmp_path: Path, words: tuple[str, ...], id: str
) -> None:
    source = setuptools_project(tmp_path / "source")
    answer = bringup("build", source, "--env", environment, *words, "-o", tmp_path, "--json")
    document = answer.document
    error = document["id"] if document["schema"] == "bringup/error/1" else answer.first["error"]["id"]
    if words[1] in ("9.9", "7.0") and error == "toolkit-lacks-architecture":
        return  # The same said of a toolkit that is installed on this machine.
    assert error == id
    assert answer.code in (1, 2)


def test_torch_projects_need_a_torch_with_cuda(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    source = setuptools_project(tmp_path / "source")
    text = (source / "setup.py").read_text()
    (source / "setup.py").write_text("from torch.utils.cpp_extension import CUDAExtension\n" + text)
    words = ("--arch", "9.0", "-o", tmp_path, "--json")
    assert error_of(bringup("build", source, "--env", environment, *words)) == "build-needs-torch"
    with_torch = bringup("build", source, "--env", sys.prefix, *words)
    assert error_of(with_torch) == "build-torch-without-cuda", "torch of the tests is the CPU build"


def test_folder_without_a_project(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = bringup("build", tmp_path / "empty", "--env", environment, "--arch", "9.0", "--json")
    assert (answer.code, error_of(answer)) == (2, "nothing-to-build")


@pytest.mark.slow
def test_cuda_sources_that_were_built_for_the_cpu_alone(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    cmake = CMAKE_MODULE.replace("LANGUAGES CXX CUDA", "LANGUAGES CXX").replace("module.cu", "module.cpp")
    source = scikit_project(tmp_path / "source", "cpu_only", cmake)
    (source / "module.cpp").write_text(
        '#include <Python.h>\nstatic PyModuleDef d = {PyModuleDef_HEAD_INIT, "cpu_only", "", -1, nullptr};\n'
        "PyMODINIT_FUNC PyInit_cpu_only() { return PyModule_Create(&d); }\n"
    )
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    assert error_of(bringup(*words)) == "build-without-device-code"


# A gcc without its linker plugin, and one that drops the module's init function at this one link.
WITHOUT_PLUGIN = '#!/bin/bash\nexec /usr/bin/g++ "$@" -fno-use-linker-plugin\n'
LOSES_INIT = """\
#!/bin/bash
case " $* " in *" -c "*) ;; *with_lto.cpython*) exec /usr/bin/g++ "$@" -fno-lto;; esac
exec /usr/bin/g++ "$@"
"""


def project_with_lto(folder: Path) -> Path:
    """CMake with INTERPROCEDURAL_OPTIMIZATION; the kernel and the host code in files of their own."""
    lto = "set_target_properties(NAME PROPERTIES INTERPROCEDURAL_OPTIMIZATION TRUE)\n"
    lto += "find_package(CUDAToolkit REQUIRED)\ntarget_link_libraries(NAME PRIVATE CUDA::cudart_static)\ninstall("
    cmake = CMAKE_MODULE.replace("install(", lto).replace("module.cu", "kernel.cu module.cpp")
    source = scikit_project(folder, "with_lto", cmake)
    lines = (source / "module.cu").read_text().splitlines()
    host = "\n".join(line for line in lines if "__global__" not in line and "<<<" not in line)
    (source / "module.cpp").write_text(host)
    (source / "module.cu").unlink()
    (source / "kernel.cu").write_text(KERNEL)
    return source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "outcomes"), [(WITHOUT_PLUGIN, ["built"]), (LOSES_INIT, ["lto", "built"])]
)
def test_link_time_optimisation_is_turned_off_where_gcc_cannot_do_it(
    bringup: Bringup, environment: Path, tmp_path: Path, script: str, outcomes: list[str]
) -> None:
    """Known beforehand where a small library shows it, else by the import that fails (pip says success)."""
    wrapper = tmp_path / "g++"
    wrapper.write_text(script)
    wrapper.chmod(0o755)
    source = project_with_lto(tmp_path / "source")
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    answer = bringup(*words, CXX=str(wrapper), CC=shutil.which("gcc") or "gcc")
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["modules"] == ["with_lto"]
    assert [row["outcome"] for row in answer.first["attempts"]] == outcomes
    assert "TRUE" in (source / "CMakeLists.txt").read_text(), "only the copy is changed"


def test_link_time_optimisation_is_tried_and_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = tmp_path / "g++"
    wrapper.write_text('#!/bin/bash\nexec g++ "$@" -fno-use-linker-plugin\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    first = find_host_compilers()[0]
    assert first.cxx == wrapper
    assert not link_time_optimisation_works(first)


def test_every_toolkit_that_was_not_taken_is_named_with_the_reason(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    """A toolkit that answers and does not compile: its device compiler is gone."""
    source = setuptools_project(tmp_path / "source")
    toolkit = toolkit_with(bringup, tmp_path / "cuda", "#!/bin/bash\necho 'cicc: fatal: gone' >&2; exit 1\n")
    answer = bringup("build", source, "--env", environment, "--arch", "9.0", "--toolkit", toolkit)
    assert answer.code == 1
    told = " ".join(answer.errors.split())
    assert "a kernel did not compile" in told
    assert "cicc: fatal: gone" in told


@pytest.mark.slow
def test_place_that_cannot_be_written_is_named(bringup: Bringup, environment: Path, tmp_path: Path) -> None:
    source = setuptools_project(tmp_path / "source")
    (tmp_path / "file").write_text("no folder")
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path / "file" / "in", "--json")
    assert error_of(bringup(*words)) == "build-io"


def path_without(folder: Path, *missing: str) -> str:
    """A PATH that has all programs of this machine but those that begin with one of these names."""
    folder.mkdir()
    for place in filter(Path.is_dir, map(Path, os.environ["PATH"].split(os.pathsep))):
        for program in place.iterdir():
            link = folder / program.name
            if not program.name.startswith(missing) and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.mark.slow
def test_cmake_and_ninja_come_as_wheels_where_they_are_missing(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = cmake_project(tmp_path / "source")
    path = path_without(tmp_path / "bin", "cmake", "ninja", "ctest", "nvcc")
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    answer = bringup(*words, PATH=path)
    assert answer.code == 0, answer.errors + answer.output
    assert answer.first["binaries"][0]["machine_code"] == ["sm_90"]


def test_missing_host_compiler_is_said_before_anything_is_fetched(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = setuptools_project(tmp_path / "source")
    path = path_without(tmp_path / "bin", "g++", "clang")
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path, "--json")
    assert error_of(bringup(*words, PATH=path, CXX="")) == "no-host-compiler"


def compiling(home: Path) -> bool:
    """Whether the build has come to its compilers."""
    return any("wheel" in log.read_text() for log in (home / "cache" / "builds").glob("*.log"))


@pytest.mark.slow
def test_build_that_was_killed_leaves_nothing_that_is_in_the_way(
    bringup: Bringup, environment: Path, tmp_path: Path, home: Path
) -> None:
    source, output = setuptools_project(tmp_path / "source"), tmp_path / "output"
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", output)
    program = [sys.executable, "-c", "from bringup.cli.main import main; main()", *map(str, words)]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not compiling(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert not output.exists()
    assert list((home / "cache" / "builds").glob(".*.work"))
    (source / "module.cu").write_text((source / "module.cu").read_text() + "// another source\n")
    answer = bringup(*words, "--json")
    assert answer.code == 0, answer.errors + answer.output
    assert not answer.first["cached"]
    assert not list((home / "cache" / "builds").glob(".*.work")), "what the killed one left is gone, too"
    assert [path.suffix for path in output.iterdir()] == [".whl"]


@pytest.mark.slow
def test_two_builds_of_one_source_at_once_make_one(
    bringup: Bringup, environment: Path, tmp_path: Path
) -> None:
    source = setuptools_project(tmp_path / "source")
    words = ("build", source, "--env", environment, "--arch", "9.0", "-o", tmp_path / "output", "--json")
    with ThreadPoolExecutor(2) as pool:
        rows = [answer.first for answer in pool.map(lambda _: bringup(*words), range(2))]
    assert sorted(row["cached"] for row in rows) == [False, True]
    assert rows[0]["sha256"] == rows[1]["sha256"]
