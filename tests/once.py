"""What every start of a run reads anew and finds the same, read once for all forks of a process."""

from __future__ import annotations

import functools
from typing import Any

import sklearn.datasets
import sklearn.linear_model  # the linear probe imports it: once here instead of once per fork
import torch
import torch._dynamo  # the optimiser imports it at its first step: likewise
from lightning_fabric.utilities import registry

from mae_lite import provenance


def read_once() -> None:
    """Keep the digits, versions and commit, and the list of Lightning's plugins; leave one thread."""
    torch.set_num_threads(1)
    sklearn.datasets.load_digits = functools.cache(sklearn.datasets.load_digits)
    sklearn.datasets.load_digits()
    provenance.of_this_start = functools.cache(provenance.of_this_start)
    provenance.of_this_start()
    plugins: Any = registry
    plugins.entry_points = functools.cache(plugins.entry_points)
    plugins.entry_points(group="lightning_fabric.callbacks_factory")
