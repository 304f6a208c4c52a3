"""What pip and venv print when they fail, as they really printed it, and the error that each becomes."""

from __future__ import annotations

import pytest

from bringup.facts.interpreters import Interpreter
from bringup.plan.resolve import explain_environment_failure, explain_installer_failure

RETRY = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection "
    "broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to "
    "establish a new connection: [Errno -2] Name or service not known')': /simple/torch/\n"
    "ERROR: Could not find a version that satisfies the requirement torch (from versions: none)\n"
    "ERROR: No matching distribution found for torch\n"
)


@pytest.mark.parametrize(
    ("log", "id"),
    [
        (RETRY, "no-network"),
        ("ERROR: No matching distribution found for torch===9.9\n", "no-matching-distribution"),
        (
            "ERROR: Could not find a version that satisfies the requirement idna==3.7 (from versions: none)\n"
            "ERROR: No matching distribution found for idna==3.7\n",
            "no-versions",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n",
            "no-space",
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated",
            "wrong-hash",
        ),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed",
            "untrusted-index",
        ),
        (
            "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.\n"
            "The conflict is caused by:\n    a 1 depends on c<2\n    b 2 depends on c>=2\n"
            "ERROR: ResolutionImpossible: for help visit\n",
            "requirements-conflict",
        ),
        (
            "error: subprocess-exited-with-error\n"
            "× installing build dependencies for opencv-python did not run successfully.\n"
            "ERROR: No matching distribution found for numpy==1.19.3\n",
            "installer-failed",
        ),
        ("error: something else\n", "installer-failed"),
        ("", "installer-failed"),
    ],
)
def test_reading_of_pip(log: str, id: str) -> None:
    assert explain_installer_failure(log, "torch").id == id


def test_conflict_names_both_sides() -> None:
    log = "ERROR: ResolutionImpossible\n    a 1 depends on c<2\n    b 2 depends on c>=2\n"
    text = str(explain_installer_failure(log, "a").parameters["text"])
    assert "a 1 depends on c<2" in text
    assert "b 2 depends on c>=2" in text


def test_debian_without_ensurepip() -> None:
    log = "The virtual environment was not created successfully because ensurepip is not available."
    python = Interpreter("/usr/bin/python3", "3.11.2", "CPython", False, "linux-x86_64")
    assert explain_environment_failure(log, python, free=10**9).id == "no-ensurepip"
    assert explain_environment_failure(log, python, free=8192).id == "no-space"  # venv says the same of both
