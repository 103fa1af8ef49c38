"""Fixtures that every test may use."""

import pathlib

import pytest

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference outputs and real videos beside the repository."""
  if not SHARED.is_dir():
    pytest.skip("the reference data (../shared) is not beside this checkout")
  return SHARED
