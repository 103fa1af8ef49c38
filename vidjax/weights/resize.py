"""Tables of positions at another size, as each family's code resizes them."""

import re
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidjax.models.backbone import Backbone
from vidjax.models.vit import ViT
from vidjax.ops.position import resize_grid
from vidjax.ops.position_bias import resize_bias_table
from vidjax.weights.entries import Entry
from vidjax.weights.keys import Resize

Shape = tuple[int, ...]


def linear_matrix(size: int, new_size: int) -> Float[np.ndarray, "o i"]:
  """Weights that resize a line of samples linearly.

  Half-pixel centres, edge replication, no antialiasing: PyTorch's
  `interpolate(mode="bilinear", align_corners=False)` along one axis.
  """
  centre = (np.arange(new_size) + 0.5) * size / new_size - 0.5
  centre = np.clip(centre, 0, size - 1)
  distance = np.abs(centre[:, None] - np.arange(size))
  return np.maximum(0, 1 - distance).astype(np.float32)


def nearest_rows(size: int, new_size: int) -> Int[np.ndarray, " o"]:
  """Rows that PyTorch's `interpolate(mode="nearest")` takes."""
  return np.arange(new_size) * size // new_size


def _bilinear(
  grid: Float[np.ndarray, "h w c"], side: int, scale: float
) -> Float[np.ndarray, "h2 w2 c"]:
  del scale
  rows, columns = (linear_matrix(n, side) for n in grid.shape[:2])
  return np.einsum("ah,bw,hwc->abc", rows, columns, grid)


def _nearest(
  grid: Float[np.ndarray, "h w c"], side: int, scale: float
) -> Float[np.ndarray, "h2 w2 c"]:
  del scale
  rows, columns = (nearest_rows(n, side) for n in grid.shape[:2])
  return grid[rows][:, columns]


def _bicubic(
  grid: Float[np.ndarray, "h w c"], side: int, scale: float
) -> Float[np.ndarray, "h2 w2 c"]:
  new = resize_grid(jnp.asarray(grid), (side, side), (scale, scale))
  return np.asarray(new)


GRIDS = {"bilinear": _bilinear, "nearest": _nearest, "bicubic": _bicubic}
ROWS: Mapping[str, Callable[[int, int], np.ndarray]] = {
  # Frame t takes row t modulo the rows, in official code too.
  "repeated": lambda size, new_size: np.arange(new_size) % size,
  "nearest": nearest_rows,
}


def resizer(model: Backbone, grid: str, rows: str) -> Resize:
  """Returns what resizes a model's tables.

  Args:
    model: to be filled.
    grid: how a ViT's positions are resized, of `GRIDS`.
    rows: how a ViT's temporal positions are resized, of `ROWS`.

  Returns:
    A function of path, entry and the wanted shape; entries that it does not
    know how to resize are returned as they are.
  """

  def positions(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    old, new = (round((n - 1) ** 0.5) for n in (len(table), shape[0]))
    if old * old + 1 != len(table) or table.shape[1:] != shape[1:]:
      return None
    assert isinstance(model, ViT)
    scale = model.image_size / (old * model.patch_embed.size[1])
    square = table[1:].reshape(old, old, -1)
    resized = GRIDS[grid](square, new, scale).reshape(new * new, -1)
    return np.concatenate([table[:1], resized])

  def times(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    if table.shape[1:] != shape[1:]:
      return None
    return table[ROWS[rows](len(table), shape[0])]

  def maps(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    if table.shape[2:] != shape[2:]:
      return None
    scale = (shape[0] / table.shape[0], shape[1] / table.shape[1])
    size = (shape[0], shape[1])
    return np.asarray(resize_grid(jnp.asarray(table), size, scale))

  def bias(table: np.ndarray, shape: Shape) -> np.ndarray | None:
    if table.ndim != 4 or table.shape[3:] != shape[3:]:
      return None
    frames, height, width = ((n + 1) // 2 for n in shape[:3])
    new = resize_bias_table(jnp.asarray(table), (frames, height, width))
    return np.asarray(new)

  # Path, how it is said, what does it.
  kinds = (
    (r"position", grid, positions),
    (r"temporal_position", rows, times),
    (r"stages/\d+/position", "bicubic", maps),
    (r"stages/\d+/blocks/\d+/bias/table", "linear in time", bias),
  )

  def resize(path: str, entry: Entry, shape: Shape) -> Entry:
    for pattern, how, change in kinds:
      if re.fullmatch(pattern, path):
        new = change(entry.value, shape)
        if new is not None:
          old_size, size = (
            " x ".join(map(str, s)) for s in (entry.value.shape, shape)
          )
          return entry.changed(new, f"{old_size} to {size} ({how})")
    return entry

  return resize
