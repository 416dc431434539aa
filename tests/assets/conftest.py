"""Scripts of assets/stand_in import one another by plain names, as they do when they are run."""

import importlib
import sys
from pathlib import Path

import pytest

STAND_IN_SCRIPTS = Path(__file__).resolve().parents[2] / "assets" / "stand_in"


def _load(name):
    sys.path.insert(0, str(STAND_IN_SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(STAND_IN_SCRIPTS))


@pytest.fixture(scope="session")
def draw():
    return _load("draw")


@pytest.fixture(scope="session")
def read():
    return _load("read")
