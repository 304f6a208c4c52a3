"""Compiled kernels on disk: several processes, damaged files, folders that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from portable_kernels.compiler import CodeFormat, KernelSource, cache, compile_source

SOURCE = KernelSource("index.cu", (("ELEMENT", "unsigned int"), ("INDEX", "int")))

COMPILE = """
import sys
from portable_kernels.compiler import CodeFormat, KernelSource, cache
for number in range(3):
    macros = (("ELEMENT", "unsigned int"), ("INDEX", "int"), ("NUMBER", str(number)))
    code = cache.compiled(KernelSource("index.cu", macros), "sm_90", CodeFormat.CUBIN)
    assert code.startswith(b"\\x7fELF")
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        monkeypatch.setenv("PORTABLE_KERNELS_CACHE", made)
        yield Path(made)


def _compiled() -> bytes:
    return cache.compiled(SOURCE, "sm_90", CodeFormat.CUBIN)


def _only_file(folder: Path) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def test_the_second_use_reads_the_file(folder: Path) -> None:
    first = _compiled()
    path = _only_file(folder)
    assert path == cache.path_for(SOURCE, "sm_90", CodeFormat.CUBIN)
    written = path.stat().st_mtime_ns
    assert _compiled() == first
    assert path.stat().st_mtime_ns == written


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PORTABLE_KERNELS_CACHE", "~/kernels")
    assert cache.folder() == tmp_path / "kernels"
    monkeypatch.setenv("PORTABLE_KERNELS_CACHE", "~a user who does not exist/kernels")
    assert cache.folder() is None


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign", "folder"])
def test_a_damaged_file_is_made_anew(folder: Path, damage: str) -> None:
    first = _compiled()
    path = _only_file(folder)
    data = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "foreign":
        path.write_bytes(b"\x7fELF" + b"\0" * 400)
    else:
        path.unlink()
        path.mkdir()
    assert _compiled() == first
    if damage != "folder":
        assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written_costs_only_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "a file, not a folder"
    file.touch()
    monkeypatch.setenv("PORTABLE_KERNELS_CACHE", str(file))
    assert _compiled().startswith(b"\x7fELF")
    assert file.read_bytes() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX users")
def test_a_user_without_a_home_compiles_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _compiled()  # loads the compiler, which the other user may not be able to read
    for name in ("PORTABLE_KERNELS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(54321)  # as `docker run --user 54321`
            os._exit(0 if _compiled().startswith(b"\x7fELF") and cache.folder() is None else 1)
        except BaseException:  # noqa: BLE001 - nothing of the test runner may run twice
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_read_only_folder_costs_only_time(folder: Path) -> None:
    _compiled()  # loads the compiler, which the other user may not be able to read
    shutil.rmtree(folder / "sm_90")
    folder.chmod(0o555)
    child = os.fork()
    if child == 0:  # root writes everywhere: be somebody else
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            os._exit(0 if _compiled().startswith(b"\x7fELF") and not os.access(folder, os.W_OK) else 1)
        except BaseException:  # noqa: BLE001 - nothing of the test runner may run twice
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder.chmod(0o755)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_other_users_read_what_the_umask_lets_them(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        _compiled()
    finally:
        os.umask(before)
    assert _only_file(folder).stat().st_mode & 0o777 == 0o644


@pytest.mark.slow
def test_a_full_disk_leaves_no_partial_file(folder: Path) -> None:
    """A process whose files may not grow (EFBIG, as a full disk gives ENOSPC) still gets its kernels."""
    script = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n" + COMPILE
    )
    done = subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in folder.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_processes_share_one_folder(folder: Path) -> None:
    def start(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(start, range(6)))
    assert all(outcome.returncode == 0 for outcome in outcomes), outcomes
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not any(path.name.endswith(".part") for path in files)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_under_a_final_name(folder: Path) -> None:
    for delay in (0.25, 0.5, 0.8):
        process = subprocess.Popen([sys.executable, "-c", COMPILE])
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run([sys.executable, "-c", COMPILE], check=True)
    for path in folder.rglob("*.cubin"):
        assert cache._read(path) is not None


def test_what_decides_the_code_decides_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        cache.path_for(source, target, code_format)
        for source in (SOURCE, KernelSource("index.cu", (("ELEMENT", "unsigned char"), ("INDEX", "int"))))
        for target in ("sm_90", "sm_120")
        for code_format in CodeFormat
    }
    names.add(
        cache.path_for(
            KernelSource(SOURCE.file_name, SOURCE.macros, ("-lineinfo",)), "sm_90", CodeFormat.CUBIN
        )
    )
    monkeypatch.setattr(cache, "version", lambda: (99, 0))
    names.add(cache.path_for(SOURCE, "sm_90", CodeFormat.CUBIN))
    assert len(names) == 10


def test_machine_code_is_the_same_every_time() -> None:
    assert compile_source(SOURCE, "sm_86", CodeFormat.CUBIN) == compile_source(
        SOURCE, "sm_86", CodeFormat.CUBIN
    )
