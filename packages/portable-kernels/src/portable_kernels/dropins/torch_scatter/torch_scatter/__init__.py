"""torch_scatter 2.1.2's interface, served by portable_kernels: nothing is compiled, any GPU will do."""

from portable_kernels.scatter import torch_scatter_ops

torch_scatter_ops.register("torch_scatter")

# Every module first, so that a later `import torch_scatter.scatter` does not put the module where the
# function of that name belongs.
from torch_scatter import composite, scatter, segment_coo, segment_csr, utils  # noqa: E402, F401, I001
from portable_kernels.scatter import *  # noqa: E402, F403
from portable_kernels.scatter import __all__ as _names  # noqa: E402

__version__ = "2.1.2"

cuda_version = torch_scatter_ops.cuda_version()
is_not_hip = True
is_cuda = cuda_version != -1

__all__ = [*_names, "__version__"]
