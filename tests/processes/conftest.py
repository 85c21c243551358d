"""Fixtures for whole processes. Each test has its own ports and data."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty working directory with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
