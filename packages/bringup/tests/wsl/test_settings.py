"""Reading, deriving and editing `.wslconfig`: tables of texts as people have them."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bringup.steps.wsl.settings import (
    GB,
    WindowsHost,
    derive,
    needed,
    parse_size,
    read_settings,
    satisfied,
    with_settings,
)

CHANGES = {"memory": "50GB", "processors": "24", "swap": "20GB"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50GB", 50 * GB),
        ("8192MB", 8 * GB),
        ("4294967296", 4 * GB),
        (" 6 gb ", 6 * GB),
        ('"2GB"', 2 * GB),
        ("1.5GB", 3 * GB // 2),
        ("half", None),
        ("", None),
        ("-4GB", None),
        ("50GiBs", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("memory", "processors", "free", "expected"),
    [
        (63.7, 24, None, (50, 24, 20)),  # The machine of the report: i9-13900KF, 64 GB.
        (64.0, 24, None, (50, 24, 20)),
        (127.8, 32, None, (102, 32, 40)),
        (31.8, 16, None, (24, 16, 8)),
        (15.9, 8, None, (12, 8, 4)),
        (7.9, 4, None, (4, 4, 2)),
        (4.0, 2, None, (2, 2, 2)),
        (63.7, 24, 40, (50, 24, 10)),  # Swap takes a quarter of the free disk at most.
        (63.7, 24, 1, (50, 24, 0)),
    ],
)
def test_advice(memory: float, processors: int, free: int | None, expected: tuple[int, int, int]) -> None:
    disk = None if free is None else free * GB
    advice = derive(WindowsHost(int(memory * GB), processors, disk))
    assert (advice.memory, advice.processors, advice.swap) == expected


@given(st.integers(2, 2048), st.integers(1, 512))
def test_windows_keeps_its_share(gigabytes: int, processors: int) -> None:
    advice = derive(WindowsHost(gigabytes * GB, processors))
    assert 2 <= advice.memory <= max(2, gigabytes * 0.8)


EDITS = {
    "nothing there": ("", "[wsl2]\r\nmemory=50GB\r\nprocessors=24\r\nswap=20GB\r\n"),
    "another section only": (
        "[experimental]\nsparseVhd=true\n",
        "[experimental]\nsparseVhd=true\n\n[wsl2]\nmemory=50GB\nprocessors=24\nswap=20GB\n",
    ),
    "comments and other keys stay": (
        "# mine\n[wsl2]\nmemory = 8GB  # too small\n#swap=0\nnetworkingMode=mirrored\ndnsTunneling=true\n",
        "# mine\n[wsl2]\nmemory = 50GB  # too small\n#swap=0\nnetworkingMode=mirrored\ndnsTunneling=true\n"
        "processors=24\nswap=20GB\n",
    ),
    "a comment before the next section stays with it": (
        "[wsl2]\nswap=1GB\n\n# trial\n[experimental]\nautoMemoryReclaim=gradual\n",
        "[wsl2]\nswap=20GB\nmemory=50GB\nprocessors=24\n\n# trial\n[experimental]\nautoMemoryReclaim=gradual\n",
    ),
    "windows line ends, no last one": (
        "[wsl2]\r\nprocessors=4",
        "[wsl2]\r\nprocessors=24\r\nmemory=50GB\r\nswap=20GB\r\n",
    ),
    "the last line is left alone when nothing follows it": (
        "[wsl2]\nmemory=1GB\nprocessors=2\nswap=0\n[experimental]\nx=1",
        "[wsl2]\nmemory=50GB\nprocessors=24\nswap=20GB\n[experimental]\nx=1",
    ),
    "spelled otherwise": (
        "[WSL2]\nMemory=4GB\nPROCESSORS = 2\nSwap=0\n",
        "[WSL2]\nMemory=50GB\nPROCESSORS = 24\nSwap=20GB\n",
    ),
    "a key twice": (
        "[wsl2]\nmemory=4GB\nmemory=6GB\nprocessors=24\nswap=20GB\n",
        "[wsl2]\nmemory=50GB\nmemory=50GB\nprocessors=24\nswap=20GB\n",
    ),
    "the same key in another section": (
        "[other]\nmemory=1GB\n[wsl2]\n",
        "[other]\nmemory=1GB\n[wsl2]\nmemory=50GB\nprocessors=24\nswap=20GB\n",
    ),
    "byte-order mark": (
        "\ufeff[wsl2]\nmemory=1GB\n",
        "\ufeff[wsl2]\nmemory=50GB\nprocessors=24\nswap=20GB\n",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits(name: str) -> None:
    before, after = EDITS[name]
    assert with_settings(before, CHANGES) == after
    assert with_settings(after, CHANGES) == after


_LINES = st.lists(
    st.sampled_from(
        ["[wsl2]", "[experimental]", "memory=4GB", "# memory=1GB", "swap = 0 # none", "", "x=1", "odd"]
    )
    | st.text(string.printable.replace("\x0b", "").replace("\x0c", ""), max_size=12)
)


@given(_LINES, st.sampled_from(["\n", "\r\n"]))
def test_whatever_stands_there_the_keys_are_set_and_the_rest_stays(lines: list[str], ending: str) -> None:
    before = ending.join(lines)
    after = with_settings(before, CHANGES)
    assert {key: read_settings(after)[key] for key in CHANGES} == CHANGES
    kept = [line for line in before.splitlines() if "=" not in line or line.lstrip().startswith("#")]
    left = iter(after.splitlines())
    assert all(line in left for line in kept)


HOST = WindowsHost(64 * GB, 24)


@pytest.mark.parametrize(
    ("current", "keys"),
    [
        ({}, {"memory", "processors", "swap"}),
        ({"memory": "50GB", "processors": "24", "swap": "20GB"}, set()),
        ({"memory": "56GB", "processors": "24", "swap": "64GB"}, set()),  # More than advised stays.
        ({"memory": "63GB", "processors": "24", "swap": "20GB"}, {"memory"}),  # Windows would starve.
        ({"memory": "8GB", "processors": "8", "swap": "0"}, {"memory", "processors", "swap"}),
        ({"memory": "nonsense", "processors": "all", "swap": "20GB"}, {"memory", "processors"}),
    ],
)
def test_what_is_enough_stays(current: dict[str, str], keys: set[str]) -> None:
    assert set(needed(derive(HOST), current, HOST)) == keys


@pytest.mark.parametrize(
    ("asked", "seen", "holds"),
    [("50GB", 49 * GB, True), ("50GB", int(7.8 * GB), False), (None, GB, True), ("50GB", 47 * GB, False)],
)
def test_ninety_five_percent_will_do(asked: str | None, seen: int, holds: bool) -> None:
    assert satisfied(asked, seen) is holds
