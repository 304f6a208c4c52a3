"""Needed libraries: real shared objects whose libraries are moved about as packagers do."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bringup.facts.machine import MachineFacts

from .conftest import Broken
from .examining import examine, ids

Compile = Callable[..., Path]
TAG = f"cpython-{sys.version_info.major}{sys.version_info.minor}-x86_64-linux-gnu.so"


@pytest.fixture
def stub(compiled: Compile) -> Callable[[str], Path]:
    """A library of any soname."""

    def make(soname: str) -> Path:
        name = soname.replace(".", "_")
        return compiled(f"stub_{name}", f"void f_{name}(void) {{}}", f"-Wl,-soname,{soname}")

    return make


@pytest.fixture
def module(compiled: Compile, stub: Callable[[str], Path]) -> Callable[..., Path]:
    """An extension module that needs libraries of these sonames."""

    def make(name: str, *sonames: str, options: tuple[str, ...] = ()) -> Path:
        calls = "".join(f"void f_{s.replace('.', '_')}(void);" for s in sonames)
        body = "".join(f"f_{s.replace('.', '_')}();" for s in sonames)
        source = f"{calls} void PyInit_{name}(void) {{ {body} }}"
        return compiled(name, source, *(str(stub(s)) for s in sonames), *options)

    return make


def test_all_that_a_distribution_misses_is_one_finding(
    broken: Broken, machine: MachineFacts, module: Callable[..., Path]
) -> None:
    first = module("first", "libcublas.so.11", "libcudart.so.11.0")
    second = module("second", "libcufft.so.10")
    broken.distribution("old-ext", "1.0", {"old_ext/first.so": first, "old_ext/second.so": second})
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert (finding.id, finding.severity, finding.subject) == ("missing-library", "error", "old-ext")
    asked = {row.value for row in finding.evidence if row.what == "DT_NEEDED"}
    assert asked == {"libcublas.so.11", "libcudart.so.11.0", "libcufft.so.10"}
    assert "cannot open shared object file" in finding.error_text
    for wheel in ("nvidia-cublas-cu11", "nvidia-cuda-runtime-cu11", "nvidia-cufft-cu11"):
        assert wheel in finding.fix
    assert f'"{broken.root}/bin/python" -m pip install' in finding.fix


@pytest.mark.parametrize("option", ["-Wl,--enable-new-dtags", "-Wl,--disable-new-dtags"])
@pytest.mark.parametrize(("folder", "expected"), [("fast/libs", []), ("other/libs", ["missing-library"])])
def test_search_paths_lead_to_a_library(
    broken: Broken,
    machine: MachineFacts,
    module: Callable[..., Path],
    stub: Callable[[str], Path],
    option: str,
    folder: str,
    expected: list[str],
) -> None:
    """RUNPATH and RPATH with $ORIGIN; a library in a stranger's folder is not found by the loader."""
    file = module("_C", "libspecial.so.3", options=("-Wl,-rpath,$ORIGIN/libs", option))
    broken.distribution("fast", "1.0", {"fast/_C.so": file})
    broken.distribution("holder", "1.0", {f"{folder}/libspecial.so.3": stub("libspecial.so.3")})
    found = examine(machine, broken.root)
    assert ids(found) == expected
    for finding in found:
        assert any(row.what == "not on the search path" for row in finding.evidence)


def test_a_package_loads_its_own_libraries(
    broken: Broken, machine: MachineFacts, module: Callable[..., Path], stub: Callable[[str], Path]
) -> None:
    files = {"fast/_C.so": module("_C", "libspecial.so.3"), "fast.libs/x.so.3": stub("libspecial.so.3")}
    broken.distribution("fast", "1.0", files)
    assert examine(machine, broken.root) == []


def test_what_a_requirement_brings_is_loaded_by_it(
    broken: Broken, machine: MachineFacts, module: Callable[..., Path], stub: Callable[[str], Path]
) -> None:
    metadata = "Requires-Dist: runtime>=1\n"
    broken.distribution("fast", "1.0", {"fast/_C.so": module("_C", "libspecial.so.3")}, metadata)
    broken.distribution("runtime", "1.0", {"runtime/libspecial.so.3": stub("libspecial.so.3")})
    assert examine(machine, broken.root) == []


def torch_extension(compiled: Compile, stub: Callable[[str], Path], torch: Path, soname: str) -> Path:
    name = f"f_{soname.replace('.', '_')}"
    source = f"void {name}(void); void PyInit__C(void) {{ {name}(); }}"
    options = (str(stub(soname)), f"-L{torch}", "-Wl,--no-as-needed", "-lc10")
    return compiled("_C", source, *options)


@pytest.mark.parametrize(
    ("soname", "cuda", "expected"),
    [
        ("libcudart.so.12", "12.8", []),
        ("libcudart.so.12", "13.0", ["missing-library"]),
        ("libcusparse.so.12", "13.0", []),
        ("libcudart.so.11.0", "12.8", ["missing-library"]),
    ],
)
def test_torch_loads_the_wheels_of_its_own_cuda(
    soname: str,
    cuda: str,
    expected: list[str],
    broken: Broken,
    machine: MachineFacts,
    compiled: Compile,
    stub: Callable[[str], Path],
    torch_library_folder: Path,
) -> None:
    """The NVIDIA wheel is there each time; torch loads it beforehand only if it is of its own CUDA."""
    broken.torch(f"2.11.0+cu{cuda.replace('.', '')}", cuda)
    (broken.site / "torch" / "lib").mkdir()
    (broken.site / "torch" / "lib" / "libc10.so").symlink_to(torch_library_folder / "libc10.so")
    broken.distribution("nvidia-x", "1.0", {f"nvidia/x/lib/{soname}": stub(soname)})
    broken.distribution(
        "ext", "1.0", {"ext/_C.so": torch_extension(compiled, stub, torch_library_folder, soname)}
    )
    found = examine(machine, broken.root)
    assert ids(found) == expected
    for finding in found:
        assert "install --upgrade --force-reinstall --no-deps ext" in finding.fix, (
            "another runtime would not be loaded either"
        )


def test_back_ends_that_are_optional(
    broken: Broken, machine: MachineFacts, module: Callable[..., Path], stub: Callable[[str], Path]
) -> None:
    files: dict[str, Path | str] = {
        f"audio/lib_ffmpeg{n}.so": module(f"lib_ffmpeg{n}", f"libavformat.so.{n + 54}") for n in (4, 5)
    }
    broken.distribution("audio", "1.0", files)
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert (finding.severity, finding.fix) == ("warning", "apt-get install ffmpeg")
    broken.distribution("ffmpeg-libraries", "5", {"audio/libavformat.so.59": stub("libavformat.so.59")})
    assert examine(machine, broken.root) == [], "one back end of the two is enough"


def test_opencv_without_a_screen(broken: Broken, machine: MachineFacts, module: Callable[..., Path]) -> None:
    broken.distribution("opencv-python", "4.10.0", {"cv2/cv2.abi3.so": module("cv2", "libGL.so.1")})
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert finding.severity == "error"
    assert "opencv-python-headless" in finding.fix


def test_the_loaders_folders(
    broken: Broken,
    machine: MachineFacts,
    module: Callable[..., Path],
    stub: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken.distribution("fast", "1.0", {f"fast/_C.{TAG}": module("_C", "libspecial.so.3")})
    assert ids(examine(machine, broken.root)) == ["missing-library"]
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(stub("libspecial.so.3"), tmp_path / "elsewhere" / "libspecial.so.3")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "elsewhere"))
    assert examine(machine, broken.root) == []


def test_torch_without_its_nvidia_wheels(
    broken: Broken, machine: MachineFacts, module: Callable[..., Path], stub: Callable[[str], Path]
) -> None:
    """`pip install --no-deps torch`: its module leads to its library, and that to nothing."""
    broken.torch("2.11.0+cu130", "13.0")
    library = module("libtorch_cuda", "libcudart.so.13", "libcudnn.so.9")
    files = {
        "torch/_C.so": module("_C", "libtorch_cuda.so", options=("-Wl,-rpath,$ORIGIN/lib",)),
        "torch/lib/libtorch_cuda.so": library,
    }
    (broken.site / "torch-2.11.0+cu130.dist-info").rename(broken.site / "gone")
    broken.distribution("torch", "2.11.0", files)
    (finding,) = examine(machine, broken.root, bare_system=True)
    assert (finding.id, finding.subject, finding.severity) == ("missing-library", "torch", "error")
    assert "nvidia-cuda-runtime==13.*" in finding.fix
    assert "nvidia-cudnn-cu13==9.*" in finding.fix
