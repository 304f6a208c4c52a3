"""What torch_scatter puts in place of its operators while its documentation is built.

They raise ImportError.
"""

import torch


def cuda_version_placeholder() -> int:
    """Return -1: no CUDA."""
    return -1


def _absent() -> ImportError:
    return ImportError("this is a placeholder; use the functions of torch_scatter itself")


def scatter_placeholder(
    src: torch.Tensor, index: torch.Tensor, dim: int, out: torch.Tensor | None, dim_size: int | None
) -> torch.Tensor:
    """Raise ImportError."""
    raise _absent()


def scatter_arg_placeholder(
    src: torch.Tensor, index: torch.Tensor, dim: int, out: torch.Tensor | None, dim_size: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raise ImportError."""
    raise _absent()


def segment_csr_placeholder(
    src: torch.Tensor, indptr: torch.Tensor, out: torch.Tensor | None
) -> torch.Tensor:
    """Raise ImportError."""
    raise _absent()


def segment_csr_arg_placeholder(
    src: torch.Tensor, indptr: torch.Tensor, out: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raise ImportError."""
    raise _absent()


def segment_coo_placeholder(
    src: torch.Tensor, index: torch.Tensor, out: torch.Tensor | None, dim_size: int | None
) -> torch.Tensor:
    """Raise ImportError."""
    raise _absent()


def segment_coo_arg_placeholder(
    src: torch.Tensor, index: torch.Tensor, out: torch.Tensor | None, dim_size: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raise ImportError."""
    raise _absent()


gather_csr_placeholder = segment_csr_placeholder
gather_coo_placeholder = segment_csr_placeholder
