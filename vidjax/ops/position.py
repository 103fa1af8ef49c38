"""Position tables at other resolutions, as PyTorch resizes them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float


def cubic_kernel(
  distance: Float[np.ndarray, "*s"], a: float = -0.75
) -> Float[np.ndarray, "*s"]:
  """Keys' cubic convolution weight at a distance in samples (Keys 1981).

  PyTorch uses a = -0.75 where most libraries, `jax.image` too, use -0.5.
  """
  d = np.abs(distance)
  near = ((a + 2) * d - (a + 3)) * d * d + 1
  far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
  return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


@functools.cache
def bicubic_matrix(
  size: int, new_size: int, scale: float
) -> Float[np.ndarray, "o i"]:
  """Weights that resize a line of `size` samples to `new_size`.

  Half-pixel centres, edge replication, no antialiasing: PyTorch's
  `interpolate(mode="bicubic", align_corners=False, scale_factor=scale)`, which
  places the samples in float32.
  """
  step = np.float32(1 / scale)
  centre = step * (np.arange(new_size, dtype=np.float32) + np.float32(0.5))
  centre -= np.float32(0.5)
  first = np.floor(centre).astype(int) - 1
  matrix = np.zeros((new_size, size))
  for tap in range(4):
    source = np.clip(first + tap, 0, size - 1)
    weight = cubic_kernel(centre - (first + tap))
    np.add.at(matrix, (np.arange(new_size), source), weight)
  return matrix.astype(np.float32)


def resize_grid(
  table: Float[jax.Array, "h w c"],
  new_size: tuple[int, int],
  scale: tuple[float, float],
) -> Float[jax.Array, "h2 w2 c"]:
  """Resizes a grid of position embeddings to `(h2, w2)` (PyTorch bicubic).

  Args:
    table: one embedding for each cell of the grid.
    new_size: rows and columns wanted.
    scale: factor of each axis that maps old coordinates to new ones.
  """
  rows = bicubic_matrix(table.shape[0], new_size[0], scale[0])
  columns = bicubic_matrix(table.shape[1], new_size[1], scale[1])
  return jnp.einsum("ah,bw,hwc->abc", rows, columns, table)
