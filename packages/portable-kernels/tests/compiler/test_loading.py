"""What the driver refuses is said as what could not be compiled is."""

from __future__ import annotations

import pytest
import torch

from portable_kernels.compiler import KernelModule, KernelSource
from portable_kernels.errors import KernelCompilationError

pytestmark = pytest.mark.gpu


def test_a_kernel_that_is_not_there() -> None:
    module = KernelModule(KernelSource("index.cu", (("ELEMENT", "unsigned int"), ("INDEX", "int"))))
    with pytest.raises(KernelCompilationError, match=r"could not load no_such_kernel of index\.cu"):
        module.launch("no_such_kernel", 1, 32, [], torch.device("cuda", 0))
