"""Make the small compiled libraries in `fixtures/`: `python -m tests.binaries.make_fixtures`, from packages/bringup.

They are compiled from the kernels in builds.py alone, with the compiler from the package index's wheels.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from .builds import BUILDS, KERNELS
from .toolkit import install

FIXTURES = Path(__file__).parent / "fixtures"


def main() -> None:
    """Compile every small build, and one of each bare form of device code."""
    toolkit = install()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, build in BUILDS.items():
            if build.small:
                shutil.copy(toolkit.build(build, folder, name, strip=True), FIXTURES / f"{name}.so")
        source = folder / "scale.cu"
        source.write_text(KERNELS["scale"])
        for architecture in ("sm_75", "sm_90a", "sm_100f"):
            target = FIXTURES / f"{architecture}.cubin"
            toolkit.nvcc(f"-arch={architecture}", "-cubin", source, "-o", target, folder=folder)
        toolkit.nvcc("-arch=compute_120f", "-ptx", source, "-o", FIXTURES / "f.ptx", folder=folder)
        both = ("-gencode", "arch=compute_90,code=sm_90", "-gencode", "arch=compute_90,code=compute_90")
        toolkit.nvcc(*both, "-fatbin", source, "-o", FIXTURES / "both.fatbin", folder=folder)
        wanted = ("-arch=sm_86", "-rdc=true", "-Xcompiler", "-fPIC", "-c", source)
        toolkit.nvcc(*wanted, "-o", FIXTURES / "unlinked.o", folder=folder)
        toolkit.nvcc("-arch=sm_86", "-lib", source, "-o", FIXTURES / "static.a", folder=folder)


if __name__ == "__main__":
    main()
