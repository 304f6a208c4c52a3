"""Counter-based draws: the same on host and device, uniform, independent of each other."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from prostate_ssl.augment.draws import to_normal
from prostate_ssl.randomness import as_tensor_keys, fold, host_key, host_permutation, host_uniform, uniform


def test_host_and_device_fold_the_same_bits() -> None:
    keys = as_tensor_keys(host_key(5, np.arange(1000)))
    assert torch.equal(fold(keys, 17), as_tensor_keys(host_key(5, np.arange(1000), 17)))
    assert torch.equal(fold(keys, -3), as_tensor_keys(host_key(5, np.arange(1000), -3)))


def test_draws_are_uniform_and_normal() -> None:
    numbers = uniform(as_tensor_keys(host_key(1, np.arange(2000))), 50)
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(to_normal(numbers).flatten().double().numpy(), "norm").pvalue > 0.01
    assert numbers.min() >= 0 and numbers.max() < 1


def test_neighbouring_keys_and_columns_do_not_correlate() -> None:
    table = uniform(as_tensor_keys(host_key(2, 0, np.arange(20000))), 4).numpy()
    for first, second in ((table[:-1, 0], table[1:, 0]), (table[:, 0], table[:, 1])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_known_answers_hold_for_ever() -> None:
    """The stream is part of a run's identity: a change here breaks resumption of old runs."""
    assert [int(key) for key in host_key(1, 2, np.arange(3))] == KNOWN_KEYS
    assert host_permutation(8, 1, 2).tolist() == KNOWN_ORDER
    assert abs(float(host_uniform(0, 1, 2)) - KNOWN_UNIFORM) < 1e-15


KNOWN_KEYS = [241634772696565473, 8714790858771135257, 2631713133289659540]
KNOWN_ORDER = [0, 6, 2, 7, 1, 5, 3, 4]
KNOWN_UNIFORM = 0.6733744049104132
