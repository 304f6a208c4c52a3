"""The lock of a run's folder where the file system has none."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from prostate_ssl.errors import ProstateError
from prostate_ssl.training.lock import alone_in
from prostate_ssl.training.session import Session

HERE = Session(torch.device("cpu"), 0, 1)


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EIO"])
def test_a_file_system_without_locks_keeps_no_training_from_its_folder(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS without its lock service says ENOLCK, FUSE EOPNOTSUPP or ENOSYS."""
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(fcntl, "flock", flock)
    done = []
    for _ in range(2):  # the second time, what the first left is there
        with alone_in(tmp_path, HERE):
            done.append(True)
    assert done == [True, True]


def test_a_folder_that_takes_no_lock_file_is_left_to_what_is_written_there_next(tmp_path: Path) -> None:
    (tmp_path / ".training.lock").mkdir()
    with alone_in(tmp_path, HERE):
        pass


def test_where_there_are_locks_the_second_is_refused_and_the_third_is_not(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path, HERE),
        pytest.raises(ProstateError, match="Another training"),
        alone_in(tmp_path, HERE),
    ):
        pass
    with alone_in(tmp_path, HERE):
        pass
