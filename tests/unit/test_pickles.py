"""Pickles are read by no torch that is known to be harmed by them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from dllm_fast.errors import CheckpointError
from dllm_fast.models import pickles


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path)
    return path


@pytest.mark.parametrize("version", ["2.5.0", "2.6.0", "2.9.1"])
def test_versions_of_torch_that_are_not_safe(version: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("nothing may be read"))
    with pytest.raises(CheckpointError, match=f"must be read by torch 2.10 or later, got torch {version}"):
        pickles.read(file)


def test_this_version(file: Path) -> None:
    if torch.__version__ < "2.10":
        with pytest.raises(CheckpointError, match="must be read by torch"):
            pickles.read(file)
    else:
        assert pickles.read(file).tensors["a"].tolist() == [1, 1]
