"""The device of these tests."""

import os

import pytest
import torch


@pytest.fixture
def device() -> str:
    """The GPU; without one the test is skipped, or rehearsed where `check.sh --cpu` says so."""
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("GPU_CHECK_DEVICE") == "cpu":
        return "cpu"
    pytest.skip("needs a GPU")
