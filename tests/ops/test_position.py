import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.position import bicubic_matrix, cubic_kernel, resize_grid

resize = oracles.jit(resize_grid, static_argnums=(1, 2))

# (table, new size, scale); the last but one cuts a partial patch (36 px of 8,
# from 28 px), so that the scale is not the ratio of the sizes.
CASES = [
  ((4, 4), (7, 5), (7 / 4, 5 / 4)),
  ((14, 14), (10, 17), (10 / 14, 17 / 14)),
  ((28, 28), (5, 5), (40 / 224, 40 / 224)),
  ((1, 3), (4, 1), (4.0, 1 / 3)),
  ((3, 3), (4, 4), (36 / 28, 36 / 28)),
  ((2, 2), (16, 16), (8.0, 8.0)),
]


@pytest.mark.parametrize(("size", "new_size", "scale"), CASES)
def test_equals_the_loop(size, new_size, scale):
  table = oracles.normal(*size, 2)
  got = resize(table, new_size, scale)
  np.testing.assert_allclose(
    got, oracles.bicubic(table, new_size, scale), atol=1e-5
  )


def test_scale_one_is_the_identity():
  table = oracles.normal(5, 3, 4)
  got = resize(table, (5, 3), (1.0, 1.0))
  np.testing.assert_array_equal(got, table)


@pytest.mark.parametrize(("size", "new_size", "scale"), CASES)
def test_constants_stay(size, new_size, scale):
  table = np.full((*size, 1), 3.25, np.float32)
  got = resize(table, new_size, scale)
  assert got.shape == (*new_size, 1)
  np.testing.assert_allclose(got, 3.25, rtol=1e-6)


@pytest.mark.parametrize("new_size", [(9, 9), (3, 3)])
def test_is_not_the_cubic_of_jax(new_size):
  table = oracles.normal(6, 6, 1)
  scale = (new_size[0] / 6, new_size[1] / 6)
  jaxs = jax.image.resize(table, (*new_size, 1), method="cubic")
  assert np.abs(resize(table, new_size, scale) - jaxs).max() > 0.02


def test_kernel():
  # By hand: 0.59375 = ((1.25 / 2 - 2.25) / 2) / 2 + 1.
  d = np.array([0, 0.5, 1, 1.5, 2, 3])
  want = [1, 0.59375, 0, -0.09375, 0, 0]
  np.testing.assert_allclose(cubic_kernel(d), want, atol=1e-15)
  np.testing.assert_array_equal(cubic_kernel(-d), cubic_kernel(d))
  assert cubic_kernel(np.array([1.5]), -0.5)[0] == -0.0625


sizes = st.integers(1, 20)


@settings(deadline=None)
@given(size=sizes, new_size=sizes, enlarge=st.floats(0.9, 1.1))
def test_matrix(size, new_size, enlarge):
  scale = new_size / size * enlarge
  matrix = bicubic_matrix(size, new_size, scale)
  assert matrix.shape == (new_size, size)
  np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
  assert (np.count_nonzero(matrix, axis=1) <= 4).all()


@settings(deadline=None)
@given(size=sizes, new_size=sizes)
def test_matrix_is_mirror_symmetric(size, new_size):
  matrix = bicubic_matrix(size, new_size, new_size / size)
  np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-5)
