"""conda's names of packages in the terms of the package index, and those that have no place there.

Source: the recipes (feedstocks) of conda-forge of these names.
"""

from __future__ import annotations

import re

_ELSEWHERE_CALLED = {
    "pytorch": "torch",
    "pytorch-gpu": "torch",
    "pytorch-cpu": "torch",
    "opencv": "opencv-python-headless",
    "py-opencv": "opencv-python-headless",
    "pytables": "tables",
    "matplotlib-base": "matplotlib",
    "pyg": "torch-geometric",
    "pytorch-cluster": "torch-cluster",
    "pytorch-scatter": "torch-scatter",
    "pytorch-sparse": "torch-sparse",
    "pytorch-spline-conv": "torch-spline-conv",
    "tensorflow-gpu": "tensorflow",
    "msgpack-python": "msgpack",
}
# Programs and libraries, not Python's: on the package index the name is nobody's, or another's (ffmpeg is).
_NO_PYTHON = re.compile(
    r"_.*|lib(?!rosa|cst|sass).*|cuda.*|cudnn|nccl|cutensor|magma.*|mkl|mkl-include|blas|openblas|nomkl|ffmpeg|x264|x265|git|git-lfs|"
    r"make|cmake|ninja|gcc.*|gxx.*|clang.*|cxx-compiler|c-compiler|compilers|binutils.*|ld_impl.*|sysroot.*|"
    r"openssl|ca-certificates|zlib|bzip2|xz|zstd|lz4-c|readline|sqlite|tk|ncurses|icu|openmp|llvm-openmp|"
    r"intel-openmp|tbb|eigen|boost|boost-cpp|glew|glfw|mesa-.*|xorg-.*|wget|curl|unzip|rsync|vim|htop|tmux|nodejs|jpeg|"
    r"freetype|fontconfig|qt|qt-main|openjpeg|lcms2|lame|gmp|gnutls|nettle|openh264|colmap|imagemagick|"
    r"sparsehash|google-sparsehash|suitesparse|metis|ceres-solver|hdf5|fftw|gsl|cgal|pcl|vtk-base"
)


def pip_name(name: str) -> str | None:
    """The distribution that a conda package is; None for what is no Python package."""
    known = name.lower()
    if known in _ELSEWHERE_CALLED:
        return _ELSEWHERE_CALLED[known]
    return None if _NO_PYTHON.fullmatch(known) else name
