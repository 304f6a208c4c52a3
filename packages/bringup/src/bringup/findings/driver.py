"""Rules about the NVIDIA driver. Source of the minimums: the catalog's table of CUDA release notes."""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import Version

from bringup.findings.model import Evidence, Examined, Finding
from bringup.findings.repairs import driver_fix

# The first driver branch that knows Blackwell (compute capability 10.0 and later): R570.
_BLACKWELL_MAJOR = 10
_BLACKWELL_DRIVER = Version("570")


def driver_too_old(examined: Examined) -> Iterator[Finding]:
    """torch's CUDA needs a newer driver than the one that is loaded."""
    torch = examined.environment.torch if examined.environment else None
    driver = examined.driver
    if torch is None or torch.cuda is None or driver is None:
        return
    needed = examined.catalog.minimum_driver(torch.cuda, windows=examined.windows_driver)
    if needed and Version(driver.version) < Version(needed):
        evidence = (
            Evidence(f"{torch.folder}/version.py", "cuda", torch.cuda),
            Evidence("NVML", "driver version", driver.version),
        )
        found = driver.cuda[0] * 1000 + driver.cuda[1] * 10
        text = f"The NVIDIA driver on your system is too old (found version {found})."
        parameters = {"cuda": torch.cuda, "needed": needed, "driver": driver.version}
        yield Finding(
            "driver-too-old", "error", "driver", evidence, text, driver_fix(examined, needed), parameters
        )


def chip_newer_than_driver(examined: Examined) -> Iterator[Finding]:
    """A Blackwell GPU with a driver that predates it."""
    if examined.driver is None:
        return
    for gpu in examined.gpus:
        too_old = Version(examined.driver.version) < _BLACKWELL_DRIVER
        if gpu.capability.major >= _BLACKWELL_MAJOR and too_old:
            evidence = (
                Evidence("NVML", "driver version", examined.driver.version),
                Evidence("catalog", gpu.name, str(gpu.capability)),
            )
            parameters = {"gpu": gpu.name, "needed": "570", "driver": examined.driver.version}
            text = "No CUDA GPUs are available"
            yield Finding(
                "chip-newer-than-driver",
                "error",
                gpu.name,
                evidence,
                text,
                driver_fix(examined, "570"),
                parameters,
            )


def driver_silent(examined: Examined) -> Iterator[Finding]:
    """Device files are there, NVML does not answer."""
    trouble = examined.machine.gpus.trouble
    if trouble:
        evidence = (Evidence("NVML", "nvmlInit", trouble),)
        text = f"Failed to initialize NVML: {trouble}"
        yield Finding("driver-not-loaded", "error", "driver", evidence, text, "nvidia-smi", {"text": trouble})


def other_vendors(examined: Examined) -> Iterator[Finding]:
    """AMD and Apple GPUs: said once, in a clear sentence."""
    for vendor in examined.machine.gpus.others:
        evidence = (Evidence("this machine", "GPU", vendor),)
        yield Finding(
            "not-an-nvidia-gpu",
            "info",
            vendor,
            evidence,
            "",
            "bringup up prostate-ssl --demo --cpu",
            {"vendor": vendor},
        )
