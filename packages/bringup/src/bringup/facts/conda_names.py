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
    "brotli-python": "brotli",
    "dask-core": "dask",
    "py-xgboost": "xgboost",
    "python-blosc": "blosc",
    "python-devtools": "devtools",
    "python-duckdb": "duckdb",
    "python-flatbuffers": "flatbuffers",
    "python-graphviz": "graphviz",
    "python-kaleido": "kaleido",
    "python-lmdb": "lmdb",
    "python-tzdata": "tzdata",
    "python-wget": "wget",
    "python-xxhash": "xxhash",
    "pyqt": "pyqt5",
    "seaborn-base": "seaborn",
    "tensorflow-base": "tensorflow",
}
# Programs and libraries, not Python's: on the package index the name is nobody's, or another's (ffmpeg is).
_NO_PYTHON = re.compile(
    r"_.*|lib(?!rosa|cst|sass).*|cuda.*|cudnn|nccl|cutensor|magma.*|mkl|mkl-include|blas|openblas|nomkl|ffmpeg|x264|x265|git|git-lfs|"
    r"make|cmake|ninja|gcc.*|gxx.*|clang.*|cxx-compiler|c-compiler|compilers|binutils.*|ld_impl.*|sysroot.*|"
    r"openssl|ca-certificates|zlib|bzip2|xz|zstd|lz4-c|readline|sqlite|tk|ncurses|icu|openmp|llvm-openmp|"
    r"intel-openmp|tbb|eigen|boost|boost-cpp|glew|glfw|mesa-.*|xorg-.*|wget|curl|unzip|rsync|vim|htop|tmux|nodejs|jpeg|"
    r"freetype|fontconfig|qt|qt-main|openjpeg|lcms2|lame|gmp|gnutls|nettle|openh264|colmap|imagemagick|"
    r"sparsehash|google-sparsehash|suitesparse|metis|ceres-solver|hdf5|fftw|gsl|cgal|pcl|vtk-base|"
    r"aws-c-.*|aws-(?:sdk|crt)-cpp|aws-checksums|arrow-cpp|grpc-cpp|snappy|glib|cairo|pango|expat|pcre2?|mpfr|"
    r"mpc|assimp|embree|openexr|freeimage|freeglut|mesalib|poppler|leptonica|gflags|glog|pkg-config|autoconf|"
    r"automake|patchelf|swig|doxygen|gdb|openjdk|perl.*|r-.*|bioconductor-.*"
)
# Programs that a run may call; on the package index the name is nobody's, or a stranger's (aria2 is).
_PROGRAMS = re.compile(
    r"aria2|axel|pigz|parallel|pv|p7zip|zip|jq|screen|s5cmd|rclone|pandoc|ghostscript|tesseract|openmpi|mpich|"
    r"blast|hmmer|hhsuite|kalign[23]?|mmseqs2?|foldseek|diamond|mafft|muscle|clustal[ow]|dssp|mkdssp|tmalign|"
    r"samtools|bcftools|bedtools|htslib|minimap2|bowtie2?|bwa|star|fastp|reduce|freesurfer|dcm2niix"
)
# Channels of programs and libraries; what of them is Python's the project imports.
_CHANNELS_OF_PROGRAMS = {"bioconda", "nvidia", "r", "salilab", "intel"}
_DGL = re.compile(r"dgl-cuda[\d.]+")


def pip_name(name: str) -> str | None:
    """The distribution that a conda package is; None for what is no Python package."""
    known = name.lower()
    if known in _ELSEWHERE_CALLED:
        return _ELSEWHERE_CALLED[known]
    if _DGL.fullmatch(known):
        return "dgl"
    return None if _NO_PYTHON.fullmatch(known) else name


def may_be_a_program(name: str, channel: str) -> bool:
    """Whether a conda package is no Python package, as far as its name and channel tell.

    Args:
        channel: "conda" where the entry names none.
    """
    of_programs = channel.partition("/")[0].lower() in _CHANNELS_OF_PROGRAMS
    return of_programs or _PROGRAMS.fullmatch(name.lower()) is not None
