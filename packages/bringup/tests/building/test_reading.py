"""What is read of a project, of an architecture list, of a log and of the host, as tables."""

from __future__ import annotations

import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bringup.binaries.architectures import Architecture, parse_arch_list
from bringup.errors import BringupError
from bringup.facts.gpus import GpuSurvey
from bringup.facts.host import read_host
from bringup.facts.toolchains import CudaToolkit
from bringup.report.build import line_text
from bringup.steps.building.architectures import architectures_for, choose_architectures, nvcc_flags
from bringup.steps.building.cache import hash_tree
from bringup.steps.building.failures import cause_of, first_errors
from bringup.steps.building.jobs import choose_jobs, fewer_jobs
from bringup.steps.building.project import read_build, without_lto
from bringup.steps.building.sources import opened_source

NO_GPU = GpuSurvey((), None, None, None, ())


def toolkit(*names: str) -> CudaToolkit:
    codes = tuple(sorted(Architecture.parse(name) for name in names))
    return CudaToolkit(Path("/cuda"), Path("/cuda/bin/nvcc"), "12.8", "12.8.93", codes, "system")


@pytest.mark.parametrize(
    ("arch", "torch", "cmake"),
    [
        ("12.0+PTX", "12.0+PTX", "120"),
        ("8.6;9.0", "8.6;9.0", "86-real;90-real"),
        ("8.6 9.0a", "8.6;9.0a", "86-real;90a-real"),
        ("sm_120,compute_120", "12.0+PTX", "120"),
        ("Hopper", "9.0+PTX", "90"),
        ("86-real;120", "8.6;12.0+PTX", "86-real;120"),
    ],
)
def test_any_spelling_reaches_torch_and_cmake(arch: str, torch: str, cmake: str) -> None:
    wanted = choose_architectures(arch, (), NO_GPU)
    made = architectures_for(wanted, toolkit("sm_80", "sm_86", "sm_90", "sm_90a", "sm_120"))
    assert (made.torch, made.cmake) == (torch, cmake)


@pytest.mark.parametrize(
    ("gpu", "known", "code"),
    [
        ("RTX 5090", ("sm_90", "sm_120"), "sm_120"),
        ("12.1", ("sm_90", "sm_120"), "sm_120"),
        ("H200", ("sm_80", "sm_90", "sm_90a"), "sm_90"),
        ("RTX 4090", ("sm_80", "sm_86"), "sm_86"),
    ],
)
def test_gpu_gets_its_own_code_or_the_nearest_that_it_runs(
    gpu: str, known: tuple[str, ...], code: str
) -> None:
    made = architectures_for(choose_architectures(None, [gpu], NO_GPU), toolkit(*known))
    assert [row.sm for row in made.machine_code] == [code]


def test_toolkit_that_predates_the_chip_is_refused() -> None:
    with pytest.raises(BringupError, match="toolkit-lacks-architecture") as caught:
        architectures_for(choose_architectures(None, ["RTX 5090"], NO_GPU), toolkit("sm_80", "sm_90"))
    assert "12.8" in str(caught.value.parameters["serving"])


def test_the_users_list_serves_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;12.0+PTX")
    assert [chip.sm for chip in choose_architectures(None, (), NO_GPU).chips] == ["sm_86", "sm_120"]
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    with pytest.raises(BringupError, match="build-no-architecture"):
        choose_architectures(None, (), NO_GPU)


def test_flags_for_nvcc() -> None:
    flags = nvcc_flags(parse_arch_list("9.0a;12.0+PTX"))
    assert flags.split() == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


@pytest.mark.parametrize(
    ("cores", "available", "units", "measured", "wish", "jobs"),
    [
        (24, 7.8, 8, None, None, 1),  # WSL2's default on a machine of 64 GB: 24 jobs would end it
        (24, 50, 8, None, None, 8),
        (24, 50, 40, None, None, 11),
        (24, 50, 40, 8.0, None, 5),
        (2, 50, 40, None, None, 2),
        (24, 1, 8, None, None, 1),
        (24, 50, 40, None, 20, 20),
    ],
)
def test_cores_memory_and_units_limit_the_jobs(
    cores: int,
    available: float,
    units: int,
    measured: float | None,
    wish: int | None,
    jobs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MAX_JOBS", raising=False)
    memory = round(available * (1 << 30))
    host = replace(read_host(), cores=cores, memory_available=memory, memory_total=memory)
    peak = round(measured * (1 << 30)) if measured else None
    limits = choose_jobs(host, units, True, peak, wish)
    assert limits.jobs == jobs
    assert limits.measured is (measured is not None)


def test_max_jobs_is_a_limit_and_no_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_JOBS", "2")
    host = replace(read_host(), cores=24, memory_available=100 << 30, memory_total=100 << 30)
    assert choose_jobs(host, 40, True, None).jobs == 2
    assert choose_jobs(replace(host, memory_available=3 << 30), 40, True, None).jobs == 1


@pytest.mark.parametrize(
    ("jobs", "peak", "memory", "fewer"),
    [(8, None, 0, 4), (8, 4, 12, 3), (2, 4, 100, 1), (1, 4, 1, 1), (5, 9, 1, 1)],
)
def test_after_a_kill_there_are_fewer_jobs(jobs: int, peak: int | None, memory: int, fewer: int) -> None:
    assert fewer_jobs(jobs, peak, memory) == fewer


@pytest.mark.parametrize(
    ("log", "code", "cause"),
    [
        ("g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.", 1, "memory"),
        ("nvcc error   : 'cicc' died due to signal 9 (Kill signal)", 1, "memory"),
        ("Killed\nninja: build stopped: subcommand failed.", 1, "memory"),
        ("cc1plus: out of memory allocating 65536 bytes after a total of 4 bytes", 1, "memory"),
        ("virtual memory exhausted: Cannot allocate memory", 1, "memory"),
        ("make[2]: *** [CMakeFiles/x.dir/build.make:76: a.o] Error 137", 2, "memory"),
        ("", -9, "memory"),
        ("", 137, "memory"),
        ("/usr/bin/ld: final link failed: No space left on device", 1, "disk"),
        ("lto1: fatal error: could not run lto-wrapper", 1, "lto"),
        ("cc1plus: error: '-fno-fat-lto-objects' are supported only with linker plugin", 1, "lto"),
        ("nvcc error   : 'ptxas' died due to signal 11 (Invalid memory reference)", 1, "compiler-crash"),
        ('kernel.cu(3): error: identifier "uint32_t" is undefined', 1, "errors"),
        # As pip shows the log of CMake while it tries the compiler.
        ("    *** configuring\n      Killed\n\n      # --error 0x89 --\n", 1, "memory"),
        ("error: killed_by was not declared in this scope", 1, "errors"),
    ],
)
def test_cause_of_a_failure(log: str, code: int, cause: str) -> None:
    assert cause_of(log, code) == cause


def test_the_errors_themselves_are_told_and_not_the_frames_around_them() -> None:
    log = (
        "-- Looking for pthread.h - not found\n"
        "  *** Configuring CMake...\n"
        'kernel.cu(3): error: identifier "uint32_t" is undefined\n'
        "error: subprocess-exited-with-error\nERROR: Failed building wheel for x\n"
    )
    assert first_errors(log) == 'kernel.cu(3): error: identifier "uint32_t" is undefined'


def test_message_of_cmake_follows_its_place() -> None:
    log = "-- Looking\n  CMake Error at CMakeLists.txt:7 (message):\n\n    chip must be set\n\n\nConfiguring incomplete\n"
    assert first_errors(log) == "CMake Error at CMakeLists.txt:7 (message): chip must be set"


BARE = "[tool.ruff]\nline-length = 99\n"
MESON = (
    '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n[project]\nname = "by-meson"\n'
)
OWN = '[build-system]\nrequires = ["x"]\nbuild-backend = "backend"\nbackend-path = ["tools"]\n'


@pytest.mark.parametrize(
    ("files", "kind", "requires"),
    [
        ({"setup.py": "setup(name='a')"}, "setuptools", ("setuptools>=40.8.0", "wheel")),
        ({"pyproject.toml": BARE, "setup.py": ""}, "setuptools", ("setuptools>=40.8.0", "wheel")),
        ({"pyproject.toml": BARE, "CMakeLists.txt": "project(a)"}, "cmake", ()),
        ({"pyproject.toml": MESON}, "python", ("meson-python",)),
        ({"pyproject.toml": OWN}, "python", ("x",)),
        ({"CMakeLists.txt": "project(a)"}, "cmake", ()),
    ],
)
def test_kind_of_project(files: dict[str, str], kind: str, requires: tuple[str, ...], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    project = read_build(tmp_path)
    assert (project.kind, project.requires) == (kind, requires)


@pytest.mark.parametrize(
    "text", ["[build-system", '[build-system]\nrequires = ["a b c"]\nbuild-backend = "x"\n']
)
def test_pyproject_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(BringupError, match="build-pyproject"):
        read_build(tmp_path)


@pytest.mark.parametrize(
    ("file", "line", "pinned"),
    [
        ("setup.py", "args = ['-gencode=arch=compute_80,code=sm_80']", True),
        ("setup.py", "args = ['-arch=sm_80']", True),
        ("setup.py", "os.environ['TORCH_CUDA_ARCH_LIST'] = '8.0'", True),
        ("setup.py", "# args = ['-arch=sm_80']", False),
        ("setup.py", "archs = os.environ.get('TORCH_CUDA_ARCH_LIST')", False),
        ("setup.py", "search = ['-march=native']", False),
        ("CMakeLists.txt", "set(CMAKE_CUDA_ARCHITECTURES 70 80)", True),
        ("CMakeLists.txt", 'set_target_properties(x PROPERTIES CUDA_ARCHITECTURES "80")', True),
        (
            "CMakeLists.txt",
            "set_property(TARGET x PROPERTY CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES})",
            False,
        ),
        ("CMakeLists.txt", "if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)", False),
        ("CMakeLists.txt", "CUDA_SELECT_NVCC_ARCH_FLAGS(flags Auto)", True),
        ("pyproject.toml", 'cmake.args = ["-DCMAKE_CUDA_ARCHITECTURES=80"]', True),
    ],
)
def test_lines_that_pin_architectures(file: str, line: str, pinned: bool, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    text = f"[tool.scikit-build]\n{line}\n" if file == "pyproject.toml" else f"{line}\n"
    (tmp_path / file).write_text(text)
    assert bool(read_build(tmp_path).pins) is pinned


@pytest.mark.parametrize(
    ("file", "text", "uses"),
    [
        ("setup.py", "from torch.utils.cpp_extension import CUDAExtension", True),
        ("ops/kernel.cu", "#include <ATen/ATen.h>", True),
        ("ops/kernel.cu", "#include <cuda_runtime.h>", False),
        ("CMakeLists.txt", "find_package(Torch REQUIRED)", True),
        ("setup.py", "# a torch for the dark\nname = 'torchlight'", False),
    ],
)
def test_projects_that_are_compiled_against_torch(file: str, text: str, uses: bool, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    (tmp_path / "ops").mkdir()
    (tmp_path / file).write_text(text)
    assert read_build(tmp_path).uses_torch is uses


def test_empty_submodule_is_named_before_the_compiler_misses_its_headers(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    (tmp_path / ".gitmodules").write_text(
        '[submodule "glm"]\n\tpath = third_party/glm\n\turl = https://example.org\n'
    )
    (tmp_path / "third_party" / "glm").mkdir(parents=True)
    with pytest.raises(BringupError, match="build-submodule"):
        read_build(tmp_path)
    (tmp_path / "third_party" / "glm" / "glm.hpp").write_text("")
    assert read_build(tmp_path).kind == "setuptools"


def test_link_time_optimisation_is_read_and_turned_off(tmp_path: Path) -> None:
    text = (
        "project(a)\nset(CMAKE_INTERPROCEDURAL_OPTIMIZATION ON)\n"
        "set_property(TARGET a PROPERTY INTERPROCEDURAL_OPTIMIZATION_RELEASE TRUE)\n"
        "check_ipo_supported(RESULT result)\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(text)
    assert read_build(tmp_path).lto == ("CMakeLists.txt",)
    (tmp_path / "CMakeLists.txt").write_text(without_lto(text))
    assert read_build(tmp_path).lto == ()
    assert "INTERPROCEDURAL_OPTIMIZATION_RELEASE OFF" in without_lto(text)


def test_hash_of_a_source_is_that_of_what_a_build_reads(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text("1")
    first = hash_tree(tmp_path)
    for name in ("build", ".git", "a.egg-info", "__pycache__"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "leftover.o").write_text("x")
    assert hash_tree(tmp_path) == first
    (tmp_path / "a.cu").rename(tmp_path / "b.cu")
    assert hash_tree(tmp_path) != first


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "  [1/2] /usr/local/cuda/bin/nvcc -MF a/kernel.o.d -c -c /tmp/x/kernel.cu -o /tmp/y/kernel.o -O3",
            "[1/2] kernel.cu",
        ),
        ("[ 3/10] Building CUDA object CMakeFiles/x.dir/deep/module.cu.o", "[ 3/10] module.cu"),
        ("[2/2] Linking CUDA shared library libx.so", "[2/2] Linking CUDA shared library libx.so"),
        ("  running build_ext", "running build_ext"),
        ("   ", None),
    ],
)
def test_progress_names_the_file_and_not_its_command(line: str, shown: str | None) -> None:
    assert line_text(line) == shown


def packed(source: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed_files:
            packed_files.write(source / "setup.py", "project-1.0/setup.py")
    else:
        with tarfile.open(archive, "w:gz") as packed_files:
            packed_files.add(source / "setup.py", "project-1.0/setup.py")
    return archive


@pytest.mark.parametrize("name", ["project-1.0.tar.gz", "project-1.0.zip"])
def test_archives_are_sources_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("setup(name='packed')")
    with opened_source(packed(tmp_path, tmp_path / name)) as root:
        assert read_build(root).name == "packed"
    assert not root.exists(), "unpacked for as long as needed"


def test_archive_that_reaches_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("")
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "setup.py", "../../outside.py")
    with pytest.raises(BringupError, match="source-archive"), opened_source(tmp_path / "evil.tar.gz"):
        pass


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BringupError, match="source-archive"), opened_source(tmp_path / "notes.txt"):
        pass


def test_source_that_is_not_there_says_where_it_is_fetched() -> None:
    with pytest.raises(BringupError, match="pytorch_scatter"), opened_source(Path("torch-scatter")):
        pass
