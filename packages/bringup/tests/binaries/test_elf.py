"""Our ELF reader against pyelftools and the C library, on real libraries of this interpreter."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

from bringup.binaries.elf import VersionNeed, read_elf
from bringup.binaries.elf_symbols import defined_symbols, undefined_symbols
from bringup.binaries.source import BytesSource, Damaged, open_source, text_at


def _libraries() -> list[Path]:
    """Extension modules of the development environment, and the fixtures."""
    site = Path(pytest.__file__).parents[1]
    found = sorted(path for path in site.glob("*/*.so") if path.is_file() and path.stat().st_size < 4 << 20)
    return [*found[:25], *sorted((Path(__file__).parent / "fixtures").glob("*.so"))]


LIBRARIES = [path for path in _libraries() if path.read_bytes()[:4] == b"\x7fELF"]


@pytest.mark.skipif(sys.platform != "linux", reason="shared objects of this machine are read")
@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.name)
def test_agrees_with_pyelftools(path: Path) -> None:
    with open_source(path) as source, path.open("rb") as stream:
        facts = read_elf(source)
        undefined = undefined_symbols(source, facts)
        elf = ELFFile(stream)
        rows = [(s.name, s["sh_offset"], s["sh_size"]) for s in elf.iter_sections()]
        names = BytesSource(facts.names)
        assert [(text_at(names, s.name), s.offset, s.size) for s in facts.sections] == rows
        needed, versions, wanted, defined = [], [], set(), set()
        for section in elf.iter_sections():
            if isinstance(section, DynamicSection):
                needed = [tag.needed for tag in section.iter_tags("DT_NEEDED")]
            elif isinstance(section, GNUVerNeedSection):
                for library, rows_of in section.iter_versions():
                    versions += [VersionNeed(library.name, row.name) for row in rows_of]
            elif isinstance(section, SymbolTableSection) and section.name == ".dynsym":
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["bind"] == "STB_LOCAL" or not symbol.name:
                        continue
                    (wanted if symbol["st_shndx"] == "SHN_UNDEF" else defined).add(symbol.name)
        assert list(facts.needed) == needed
        assert list(facts.versions) == versions
        assert {symbol.name for symbol in undefined} == wanted
        asked = [*sorted(defined), *sorted(wanted - defined), "no_such_symbol_anywhere"]
        assert defined_symbols(source, facts, asked) == defined


def test_paths_and_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int answer(void) { return 42; }\n")
    made = tmp_path / "liba.so.1"
    base = ["gcc", "-shared", "-fPIC", "-Wl,-soname,liba.so.1", str(tmp_path / "a.c"), "-o", str(made)]
    for flag, name in (("--enable-new-dtags", "runpath"), ("--disable-new-dtags", "rpath")):
        subprocess.run([*base, f"-Wl,{flag},-rpath,$ORIGIN/../lib:/opt/x"], check=True)
        with open_source(made) as source:
            facts = read_elf(source)
        assert facts.soname == "liba.so.1"
        assert getattr(facts, name) == ("$ORIGIN/../lib", "/opt/x")


@pytest.mark.parametrize("style", ["gnu", "sysv"])
def test_symbols_are_found_with_either_hash(tmp_path: Path, style: str) -> None:
    (tmp_path / "a.c").write_text("int answer(void); int ask(void) { return answer(); }\n")
    made = tmp_path / "a.so"
    link = ["gcc", "-shared", "-fPIC", f"-Wl,--hash-style={style}", str(tmp_path / "a.c"), "-o", str(made)]
    subprocess.run(link, check=True)
    with open_source(made) as source:
        facts = read_elf(source)
        assert defined_symbols(source, facts, ["ask", "answer"]) == {"ask"}
        assert "answer" in {symbol.name for symbol in undefined_symbols(source, facts) if not symbol.weak}


@pytest.mark.parametrize("length", [0, 4, 15, 16, 63, 64, 200])
def test_what_is_cut_off_is_damaged(fixtures: Path, length: int) -> None:
    with pytest.raises(Damaged):
        read_elf(BytesSource((fixtures / "many.so").read_bytes()[:length]))


def test_section_headers_may_be_longer_than_their_fields(fixtures: Path) -> None:
    data = bytearray((fixtures / "many.so").read_bytes())
    (table,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    rows = [data[table + 64 * index :][:64] + b"\xff" * 8 for index in range(count)]
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<H", data, 58, 72)
    longer = read_elf(BytesSource(bytes(data + b"".join(rows))))
    assert longer == read_elf(BytesSource((fixtures / "many.so").read_bytes()))
    assert longer.named(".nv_fatbin")
