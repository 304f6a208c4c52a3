"""The store of environments: the pointer, going back, and what is never deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from bringup.errors import BringupError
from bringup.steps import environments
from bringup.steps.apply import undo
from bringup.steps.environments import Slot
from bringup.steps.journal import Journal


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRINGUP_HOME", str(tmp_path))


def made(name: str, key: str) -> Slot:
    slot = Slot(name, key)
    slot.root.mkdir(parents=True)
    return slot


def test_switching_and_rolling_back() -> None:
    first, second = made("w", "one"), made("w", "two")
    environments.switch_in(first)
    environments.switch_in(second)
    assert environments.find("w") == second
    assert environments.roll_back("w") == first
    assert environments.roll_back("w") == second


def test_switching_to_the_same_keeps_the_way_back() -> None:
    first, second = made("w", "one"), made("w", "two")
    environments.switch_in(first)
    environments.switch_in(second)
    environments.switch_in(second)
    assert environments.previous("w") == first


def test_nothing_to_go_back_to() -> None:
    environments.switch_in(made("w", "one"))
    with pytest.raises(BringupError, match="nothing-to-roll-back"):
        environments.roll_back("w")


def test_a_pointer_to_nothing_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "environments" / "w").mkdir(parents=True)
    (tmp_path / "environments" / "w" / "current").write_text("gone\n")
    with pytest.raises(BringupError, match="unknown-environment"):
        environments.find("w")


def test_undo_keeps_what_is_in_use() -> None:
    first, second = made("w", "one"), made("w", "two")
    environments.switch_in(first)
    assert undo("w") == [second.root]
    assert first.root.is_dir()


def test_a_torn_journal_line_is_a_step_not_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add("a", "k", 1.0)
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write('{"step": "b", "key": "k", "sec')
    assert journal.seconds("a", "k") == 1.0
    assert journal.seconds("b", "k") is None
    journal.add("b", "k", 2.0)
    assert journal.seconds("b", "k") == 2.0
    assert journal.seconds("a", "other") is None


def test_what_was_never_proved_is_not_unknown() -> None:
    made("w", "one")
    with pytest.raises(BringupError, match="environment-unproved"):
        environments.find("w")
    with pytest.raises(BringupError, match="unknown-environment"):
        environments.roll_back("v")


def test_nothing_is_deleted_or_switched_while_somebody_works_on_it() -> None:
    made("w", "one")
    with environments.held("w"):
        for work in (undo, environments.remove, environments.roll_back):
            with pytest.raises(BringupError, match="apply-locked"):
                work("w")
    assert (environments.state.environments() / "w" / "one").is_dir()
    environments.remove("w")
    assert environments.names() == []
