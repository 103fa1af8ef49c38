"""Relative position bias of window attention, in space and time.

Swin (Liu et al. 2021, Eq. 4) adds to each logit a learned value of the offset
between query and key; Video Swin (2022) adds an axis for time, and TPS (Xiang
et al. 2022) looks it up at the frames that shifted tokens come from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidjax.ops.position import bicubic_matrix


class Places(NamedTuple):
  """Where the n tokens of each window are: frame `(t n)`, row and column."""

  frame: Int[np.ndarray, "t n"]
  row: Int[np.ndarray, " n"]
  column: Int[np.ndarray, " n"]


def relative_bias(
  table: Float[jax.Array, "a e f g"], queries: Places, keys: Places
) -> Float[jax.Array, "t2 g n n"]:
  """Looks up the bias of each query and key, by frame t and head g.

  Args:
    table: values by difference of frames, rows and columns, each axis from
      -(m - 1) to m - 1, so that zero is in the middle.
    queries: places of the queries.
    keys: places of the keys; a single frame serves all.

  Returns:
    The bias; its first axis is 1 if all frames have the same.
  """
  frames, rows, columns, heads = table.shape
  index = _difference(queries.frame, keys.frame, frames)
  index = index * rows + _difference(queries.row, keys.row, rows)
  index = index * columns + _difference(queries.column, keys.column, columns)
  if (index == index[:1]).all():
    index = index[:1]
  flat = table.reshape(-1, heads).T
  return jnp.moveaxis(flat[:, index], 0, 1)


def _difference(
  queries: np.ndarray, keys: np.ndarray, length: int
) -> np.ndarray:
  """Index along an axis of the table; one of length 1 knows no difference."""
  difference = queries[..., :, None] - keys[..., None, :] + (length - 1) // 2
  return np.zeros_like(difference) if length == 1 else difference


def resize_bias_table(
  table: Float[jax.Array, "a e f g"], window: tuple[int, int, int]
) -> Float[jax.Array, "a2 e2 f2 g"]:
  """Resizes a table to another window.

  Rows and columns bicubically, as Swin's code does for another window; frames
  linearly with the outermost differences kept, so that -(t - 1), 0 and t - 1
  stay what they are. A single frame is repeated.

  Args:
    table: values by difference of frames, rows and columns.
    window: frames, rows and columns of the new window.
  """
  frames, rows, columns = (2 * n - 1 for n in window)
  result = table
  for axis, size in ((1, rows), (2, columns)):
    old = table.shape[axis]
    if old != size:
      matrix = bicubic_matrix(old, size, size / old)
      result = jnp.moveaxis(
        jnp.tensordot(matrix, result, axes=(1, axis)), 0, axis
      )
  if frames == table.shape[0]:
    return result
  return jnp.tensordot(linear_matrix(table.shape[0], frames), result, axes=1)


def linear_matrix(size: int, new_size: int) -> Float[np.ndarray, "o i"]:
  """Weights that resize a line of samples linearly, keeping both ends."""
  places = np.linspace(0, size - 1, new_size)
  if new_size == 1:
    places = np.array([(size - 1) / 2])
  distance = np.abs(places[:, None] - np.arange(size))
  return np.maximum(0, 1 - distance).astype(np.float32)
