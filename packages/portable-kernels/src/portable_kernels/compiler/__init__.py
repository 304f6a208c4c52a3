"""CUDA C++ text to running kernels, with no nvcc and no C compiler: NVRTC compiles, the driver loads.

source → `KernelSource` · text and chip → `nvrtc.compile_source` · bytes on disk → `cache` ·
loaded and launched on torch's current stream → `module.KernelModule`.
"""

from portable_kernels.compiler.module import KernelModule, launch_grid
from portable_kernels.compiler.nvrtc import CodeFormat, compile_source, known_chips
from portable_kernels.compiler.source import KernelSource

__all__ = ["CodeFormat", "KernelModule", "KernelSource", "compile_source", "known_chips", "launch_grid"]
