"""All rules, in the order in which a person should read what they find."""

from __future__ import annotations

from bringup.findings import (
    abi,
    builds,
    compilers,
    cuda_choices,
    driver,
    engines,
    instructions,
    kernel_images,
    libraries,
    loading,
    projects,
)
from bringup.findings.model import Examined, Finding, Rule

# What stops everything comes first.
RULES: tuple[Rule, ...] = (
    driver.driver_silent,
    driver.chip_newer_than_driver,
    driver.driver_too_old,
    driver.other_vendors,
    kernel_images.cpu_torch_beside_gpu,
    kernel_images.kernel_images,
    builds.local_version_contradiction,
    builds.companions_of_another_release,
    builds.cuda_companion_beside_cpu_torch,
    builds.xformers_recorded_build,
    loading.undefined_symbol,
    libraries.missing_library,
    engines.engine_driver,
    engines.engine_without_libraries,
    engines.engine_compiles_ptx,
    engines.jax_versions,
    engines.ptxas_too_old,
    engines.several_cupy,
    abi.wrong_python_abi,
    abi.system_too_old,
    projects.impossible_pin,
    cuda_choices.origin_without_the_chip,
    cuda_choices.architectures_without_the_chip,
    instructions.instructions_without_the_chip,
    projects.old_cxx_sources,
    projects.torch_load_calls,
    projects.unimportable_checkpoint,
    projects.unused_extension,
    compilers.nvcc_missing,
    compilers.nvcc_of_another_cuda,
    compilers.nvcc_without_the_chip,
    compilers.host_compiler,
    compilers.wsl_allotment,
    projects.build_resources,
)
_ORDER = {"error": 0, "warning": 1, "info": 2}


def find(examined: Examined) -> list[Finding]:
    """Every finding, errors first, each once."""
    found: dict[object, Finding] = {}
    for rule in RULES:
        for finding in rule(examined):
            found.setdefault(
                (finding.id, finding.subject, finding.evidence, finding.parameters.get("gpu")), finding
            )
    return sorted(found.values(), key=lambda finding: _ORDER[finding.severity])
