"""Chips before 7.5, which NVRTC 12 is the last to make code for: its library, from a wheel, compiles all kernels.

In a process of its own: `cuda-bindings` takes whichever NVRTC is loaded already, also in the tests that follow.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from portable_kernels.checks import all_cases
from portable_kernels.compiler import KernelSource
from portable_kernels.compiler.nvrtc import OPTIONS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the wheel of Linux is taken"),
]
_WHEEL = "nvidia-cuda-nvrtc-cu12==12.6.85"  # 24 MB; later ones have three times as much


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvrtc")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}", _WHEEL]
    subprocess.run(download, check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / "nvidia" / "cuda_nvrtc" / "lib"


def _log(library: ctypes.CDLL, source: KernelSource, chip: int) -> str:
    """What the compiler has to say; "" where all is well."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text, name = source.text.encode(), source.file_name.encode()
    assert library.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) == 0
    options = [f"--gpu-architecture=sm_{chip}", *OPTIONS, *source.options]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    result = library.nvrtcCompileProgram(program, len(options), given)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return "" if result == 0 else f"{source}: {log.value.decode()}"


def _logs(libraries: Path, chip: int) -> list[str]:
    """What NVRTC 12 has to say about each kernel for `chip`."""
    (builtins,) = libraries.glob("libnvrtc-builtins.so.*")
    ctypes.CDLL(str(builtins))  # which the other looks for by its bare name
    library = ctypes.CDLL(str(libraries / "libnvrtc.so.12"))
    sources = {str(source): source for case in all_cases() for source in case.sources}
    return [_log(library, source, chip) for source in sources.values()]


@pytest.mark.parametrize("chip", [50, 61, 70])
def test_all_kernels_compile(libraries: Path, chip: int) -> None:
    process = subprocess.run(
        [sys.executable, __file__, str(libraries), str(chip)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    number, *logs = process.stdout.splitlines()
    assert int(number) > 20
    assert not logs


if __name__ == "__main__":
    said = _logs(Path(sys.argv[1]), int(sys.argv[2]))
    print(len(said), *filter(None, said), sep="\n")
