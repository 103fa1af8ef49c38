"""Fixtures that every test may use."""

import os
import pathlib
from collections.abc import Iterator

# Most of the suite's time would be compilation: tests run unoptimised code.
# Read when JAX starts, so it is set ahead of its import; child processes of
# the tests inherit it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

SHARED = pathlib.Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
  """The folder of reference outputs and real videos beside the repository."""
  if not SHARED.is_dir():
    pytest.skip("the reference data (../shared) is not beside this checkout")
  return SHARED


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Lets tests that compile the same program share the result.

  With several workers it is common to all of them.
  """
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if base.name.startswith("popen") else base) / "xla"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
  return folder


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
  """Compiles without optimisation: for tests that run each program once."""
  from tests import oracles  # imports vidjax, which the checks of types precede

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", oracles.jit)
    yield
