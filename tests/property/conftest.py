"""What the property tests share: one thread, and models that are opened once."""

from __future__ import annotations

import functools

import pytest
import torch

import dllm_fast


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """The models are too small for several threads, which would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package")
def opened(tmp_path_factory):
    """Opens a twin, or the one of that name, once for all files."""
    # Not above: some tests of this folder run where there is no transformers.
    from encoders import TWINS as ENCODERS
    from families import TWINS

    twins = {twin.name: twin for twin in [*TWINS, *ENCODERS]}

    @functools.cache
    def get(name: str):
        return dllm_fast.load(twins[name].save(tmp_path_factory.mktemp(name)))

    return lambda twin: get(twin if isinstance(twin, str) else twin.name)
