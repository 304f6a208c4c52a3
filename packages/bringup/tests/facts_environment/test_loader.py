"""Where the dynamic loader looks: this machine's configuration, and one inside another file system."""

from __future__ import annotations

from pathlib import Path

from bringup.facts.environment_loader import loader_folders, within


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_order_and_nothing_outside(tmp_path: Path) -> None:
    write(tmp_path, "etc/ld.so.conf", "# remark\ninclude /etc/ld.so.conf.d/*.conf\n/opt/last\n")
    write(tmp_path, "etc/ld.so.conf.d/b.conf", "/opt/b # remark\n")
    write(tmp_path, "etc/ld.so.conf.d/a.conf", "/opt/a\n")
    folders = loader_folders(tmp_path, {"LD_LIBRARY_PATH": "/first::relative:/opt/a"})
    shown = [folder.removeprefix(str(tmp_path)) for folder in folders]
    assert shown[:4] == ["/first", "/opt/a", "/opt/b", "/opt/last"]
    assert {"/lib64", "/usr/lib", "/usr/lib/x86_64-linux-gnu"} < set(shown)
    assert all(folder.startswith(str(tmp_path)) for folder in folders)


def test_a_configuration_that_includes_itself(tmp_path: Path) -> None:
    write(tmp_path, "etc/ld.so.conf", "include /etc/ld.so.conf\n/opt/a\n")
    assert str(tmp_path / "opt/a") in loader_folders(tmp_path, {})


def test_a_file_system_without_configuration(tmp_path: Path) -> None:
    assert str(tmp_path / "usr/lib") in loader_folders(tmp_path, {})


def test_this_machine_finds_its_c_library() -> None:
    assert any((Path(folder) / "libc.so.6").exists() for folder in loader_folders(Path("/"), {}))


def test_absolute_paths_stay_inside(tmp_path: Path) -> None:
    assert within(tmp_path, "//opt/x") == tmp_path / "opt/x"
