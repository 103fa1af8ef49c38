import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import oracles
from vidjax.weights.resize import GRIDS, ROWS, linear_matrix, nearest_rows

sizes = st.integers(1, 30)


@given(sizes, sizes)
def test_lines_are_resized_linearly(old, new):
  matrix = linear_matrix(old, new)
  assert matrix.shape == (new, old)
  assert matrix.dtype == np.float32
  np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
  assert (matrix >= 0).all()
  assert ((matrix > 0).sum(axis=1) <= 2).all()
  if old == new:
    np.testing.assert_array_equal(matrix, np.eye(old))


@given(sizes, sizes)
def test_rows(old, new):
  rows = nearest_rows(old, new)
  assert rows[0] == 0
  assert rows[-1] == (new - 1) * old // new
  assert (np.diff(rows) >= 0).all()
  repeated = ROWS["repeated"](old, new)
  assert repeated.tolist() == [t % old for t in range(new)]


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("side", [3, 5, 7, 9])
def test_grids_are_resized_as_pytorch_does(mode, side):
  torch = pytest.importorskip("torch", reason="compares with PyTorch itself")
  grid = oracles.normal(5, 5, 2)
  want = torch.nn.functional.interpolate(
    torch.from_numpy(grid.transpose(2, 0, 1))[None],
    size=(side, side),
    mode=mode,
    **({} if mode == "nearest" else {"align_corners": False}),
  )
  got = GRIDS[mode](grid, side, side / 5)
  want = want[0].numpy().transpose(1, 2, 0)
  np.testing.assert_allclose(got, want, atol=1e-5)
