"""A CUDA 13.0 compiler from the package index's wheels, installed once into a cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from .builds import KERNELS, Build

WHEELS = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
)


def cache_folder() -> Path:
    """Where downloads of the tests stay between runs: BRINGUP_TEST_CACHE, else the user's cache."""
    chosen = os.environ.get("BRINGUP_TEST_CACHE")
    folder = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("bringup-tests"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Toolkit:
    """The tree that the wheels unpack into: bin, include, lib, nvvm."""

    root: Path

    def nvcc(self, *arguments: str | Path, folder: Path) -> None:
        """Run the compiler in a folder."""
        command = [str(self.root / "bin" / "nvcc"), *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def build(self, build: Build, folder: Path, name: str, strip: bool = False) -> Path:
        """Compile and link one shared object."""
        objects = []
        # The same targets for each unit in one link; kernels have different names.
        for (kernel, text), targets in zip(KERNELS.items(), build.units, strict=False):
            source = folder / f"{kernel}.cu"
            source.write_text(text)
            compiled = folder / f"{name}-{kernel}.o"
            fixed = ("-frandom-seed", "1", "-Xcompiler", "-fPIC", "-c")
            self.nvcc(*_targets(targets), *build.flags, *fixed, source, "-o", compiled, folder=folder)
            objects.append(compiled)
        if "-rdc=true" in build.flags:
            linked = folder / f"{name}-linked.o"
            where = ("-L", self.root / "lib")
            device = ("-dlink", "-Xcompiler", "-fPIC", *where)
            self.nvcc(*_targets(build.units[0]), *device, *objects, "-o", linked, folder=folder)
            objects += [linked, self.root / "lib" / "libcudadevrt.a"]
        result = folder / f"{name}.so"
        runtime = self.root / "lib" / "libcudart.so.13"
        command = ["g++", "-shared", "-nostdlib", *(["-s"] if strip else []), *map(str, objects)]
        subprocess.run([*command, str(runtime), "-o", str(result)], check=True, capture_output=True)
        return result


def _targets(targets: tuple[str, ...]) -> list[str]:
    flags = []
    for target in targets:
        virtual = target.replace("sm_", "compute_")
        flags += ["-gencode", f"arch={virtual},code={target}"]
    return flags


def install() -> Toolkit:
    """The compiler; downloads about 150 MB the first time."""
    folder = cache_folder() / "nvcc-13.0"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
            subprocess.run([*pip, "--target", str(folder), *WHEELS], check=True)
            (folder / "complete").touch()
    return Toolkit(folder / "nvidia" / "cu13")
