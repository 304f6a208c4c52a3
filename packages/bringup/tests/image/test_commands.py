"""Quoting for three shells: tables, files as they must be, and parsers of the rules that take words back."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bringup.steps.image.commands import (
    SUFFIXES,
    Beside,
    Here,
    Rest,
    Shell,
    Word,
    command_line,
    quote_bash,
    quote_cmd,
    quote_powershell,
    script,
)

GOLDEN = Path(__file__).parent / "golden"

TABLE: list[tuple[Word, str, str, str]] = [
    # word, cmd.exe (in a .cmd file), PowerShell, bash
    ("run", "run", "run", "run"),
    ("--gpus", "--gpus", "--gpus", "--gpus"),
    ("-v", "-v", "-v", "-v"),
    ("a b", '"a b"', "'a b'", "'a b'"),
    ("", '""', "'\"\"'", "''"),
    ("it's", '"it\'s"', "'it''s'", "'it'\"'\"'s'"),
    ("100%", '"100%%"', "'100%'", "100%"),
    ("%PATH%", '"%%PATH%%"', "'%PATH%'", "%PATH%"),
    ("a&b|c", '"a&b|c"', "'a&b|c'", "'a&b|c'"),
    ("a^b", '"a^b"', "'a^b'", "'a^b'"),
    ("$HOME", '"$HOME"', "'$HOME'", "'$HOME'"),
    ("`tick`", '"`tick`"', "'`tick`'", "'`tick`'"),
    ("C:\\x y\\", '"C:\\x y\\\\"', "'C:\\x y\\\\'", "'C:\\x y\\'"),
    ("C:\\x\\", "C:\\x\\", "C:\\x\\", "'C:\\x\\'"),
    ('{"a": 1}', '^"{\\^"a\\^": 1}^"', "'{\\\"a\\\": 1}'", "'{\"a\": 1}'"),
    ('"', '^"\\^"^"', "'\\\"'", "'\"'"),
    ("12.0;9.0", '"12.0;9.0"', "'12.0;9.0'", "'12.0;9.0'"),
    ("(x)", '"(x)"', "'(x)'", "'(x)'"),
    ("@file", "@file", "'@file'", "@file"),
    ("-a.b", "-a.b", "'-a.b'", "-a.b"),
    ("-x:y", "-x:y", "'-x:y'", "-x:y"),
    ("‘quoted’", '"‘quoted’"', "'‘‘quoted’’'", "'‘quoted’'"),
    ("数据", '"数据"', "'数据'", "'数据'"),
    ((Here("data"), ":/input"), '"%cd%\\data:/input"', '"${PWD}\\data:/input"', '"$PWD"/data:/input'),
    ((Here(), ":/work"), '"%cd%:/work"', '"${PWD}:/work"', '"$PWD":/work'),
    ((Here("a b"), ":/x"), '"%cd%\\a b:/x"', '"${PWD}\\a b:/x"', "\"$PWD\"'/a b':/x"),
    ((Here("50% & $x's"),), '"%cd%\\50% & $x\'s"', '"${PWD}\\50% & `$x\'s"', "\"$PWD\"'/50% & $x'\"'\"'s'"),
    ((Here("50% $x"),), '"%cd%\\50% $x"', '"${PWD}\\50% `$x"', "\"$PWD\"'/50% $x'"),
    ((Beside(),), '"%~dp0."', '"$PSScriptRoot"', '"$(dirname "$0")"'),
]


@pytest.mark.parametrize(("word", "cmd", "powershell", "bash"), TABLE, ids=[str(row[0]) for row in TABLE])
def test_words(word: Word, cmd: str, powershell: str, bash: str) -> None:
    if not (isinstance(word, tuple) and "%" in str(word)):
        assert quote_cmd(word, batch=True) == cmd
    assert quote_powershell(word) == powershell
    assert quote_bash(word) == bash


def c_runtime(line: str) -> list[str]:
    """What a C program on Windows sees: Microsoft's rules for backslashes and quotes, written anew."""
    words, word, quoted, open_word, at = [], "", False, False, 0
    while at < len(line):
        sign = line[at]
        if sign == "\\":
            run = len(line) - len(line[at:].lstrip("\\")) - at
            run = len(re.match(r"\\*", line[at:])[0])  # type: ignore[index]
            at += run
            if at < len(line) and line[at] == '"':
                word += "\\" * (run // 2)
                if run % 2:
                    word += '"'
                    at += 1
            else:
                word += "\\" * run
            open_word = True
        elif sign == '"':
            quoted, open_word, at = not quoted, True, at + 1
        elif sign in " \t" and not quoted:
            if open_word:
                words.append(word)
            word, open_word, at = "", False, at + 1
        else:
            word, open_word, at = word + sign, True, at + 1
    return [*words, word] if open_word else words


def cmd_exe(line: str) -> str:
    """What cmd.exe hands on: in a batch file `%%` is `%`; carets escape outside of quotes."""
    line = line.replace("%%", "%")
    handed, quoted, at = "", False, 0
    while at < len(line):
        sign = line[at]
        if sign == "^" and not quoted:
            at += 1
            handed += line[at]
        else:
            if sign == '"':
                quoted = not quoted
            assert quoted or sign not in "&|<>", f"cmd.exe would act on {sign} in {line}"
            handed += sign
        at += 1
    return handed


def powershell(line: str) -> str:
    """What PowerShell's legacy mode hands on: single quotes undone, quotes around words with spaces."""
    words = re.findall(r"'((?:''|‘‘|’’|‚‚|‛‛|[^'‘’‚‛])*)'|(\S+)", line)
    handed = []
    for quoted, plain in words:
        word = plain or re.sub(r"(['‘’‚‛])\1", r"\1", quoted)
        handed.append(f'"{word}"' if re.search(r"\s", word) and not word.startswith('"') else word)
    return " ".join(handed)


_WORDS = st.lists(
    st.text(st.sampled_from(list("ab \\\"'%^&|<>()$`!;,=@{}#-./:‘’数\t")), max_size=12),
    min_size=1,
    max_size=5,
)


@given(_WORDS)
def test_programs_on_windows_get_what_was_meant_from_cmd(words: list[str]) -> None:
    line = " ".join(quote_cmd(word, batch=True) for word in words)
    assert c_runtime(cmd_exe(line)) == words


@given(_WORDS)
def test_programs_on_windows_get_what_was_meant_from_powershell(words: list[str]) -> None:
    line = " ".join(quote_powershell(word) for word in words)
    assert c_runtime(powershell(line)) == words


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_bash_gives_back_what_was_meant(words: list[str]) -> None:
    line = "printf '%s\\0' " + " ".join(quote_bash(word) for word in words)
    assert (
        subprocess.run(["bash", "-c", line], capture_output=True).stdout
        == "".join(f"{w}\0" for w in words).encode()
    )


@pytest.mark.parametrize("quote", [quote_cmd, quote_powershell])
@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
def test_what_a_shell_cannot_say_is_refused(quote: object, text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        quote(text)  # type: ignore[operator]


HARD: list[list[Word]] = [
    ["docker", "build", "-t", "lab/x:1", (Beside(),)],
    [
        *("docker", "run", "--rm", "--gpus", "all", "-v", (Here("my data"), ":/input")),
        *("-e", 'OPTIONS={"name": "it\'s 100%", "path": "C:\\x\\"}', "-e", "EMPTY=", "lab/x:1"),
        *("python", "run.py", "a & b | c > d", "", "%PATH%", "!x!", "^", Rest()),
    ],
    ["C:\\Program Files\\Docker\\docker.exe", "version"],
]


@pytest.mark.parametrize("shell", ["cmd", "powershell", "bash"])
def test_scripts_are_as_they_must_be(shell: Shell) -> None:
    text = script(HARD, shell, {"DOCKER_BUILDKIT": "1", "NOTE": "50% & more"})
    assert text.encode() == (GOLDEN / f"hard{SUFFIXES[shell]}").read_bytes()


def test_the_script_runs(tmp_path: Path) -> None:
    echo = ["printf", "%s|", (Here("a b"), ":/x"), "it's", '"', "", Rest()]
    (tmp_path / "s.sh").write_text(script([echo], "bash"))
    ran = subprocess.run(["sh", "s.sh", "one more", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.stdout == f"{tmp_path}/a b:/x|it's|\"||one more|2|"
    (tmp_path / "stops.sh").write_text(script([["false"], ["touch", "never"]], "bash"))
    assert subprocess.run(["sh", "stops.sh"], cwd=tmp_path).returncode == 1
    assert not (tmp_path / "never").exists()


def test_at_the_prompt_the_users_arguments_are_named() -> None:
    assert command_line(["run", Rest()], "cmd") == "run ARGUMENTS"


def test_long_commands_are_continued_between_options() -> None:
    words = [
        "docker",
        "run",
        *(word for number in range(9) for word in ("-v", f"/folder{number}:/place{number}")),
    ]
    for shell, mark in (("cmd", " ^"), ("powershell", " `"), ("bash", " \\")):
        first, *others = command_line(words, shell).split("\n")  # type: ignore[arg-type]
        assert first.endswith(mark)
        assert all(line.startswith("  -v ") for line in others)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_continued_lines_are_one_command() -> None:
    words = ["printf", "%s,", *(f"word number {number}" for number in range(20))]
    ran = subprocess.run(["bash", "-c", command_line(words, "bash")], capture_output=True, text=True)
    assert ran.stdout == "".join(f"word number {number}," for number in range(20))


def test_percent_signs_of_a_path_are_doubled_in_a_script() -> None:
    words = ["podman", "build", (Here("50% & more"),)]
    assert command_line(words, "cmd", batch=True) == 'podman build "%cd%\\50%% & more"'
    assert command_line(words, "cmd") == 'podman build "%cd%\\50% & more"'
