"""The small plan of benchmark_toy.py, in a directory of its own."""

import pytest
from benchmark_toy import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_TRAINER", str(tmp_path / "fake"))
    return Bench(tmp_path)
