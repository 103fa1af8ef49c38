"""Attention to the neighbours on a regular grid, as products of matrices.

The form of inter-frame attention (`vidjax.ops.interframe`) without offsets.
The map is cut into tiles of at most 8 x 8 positions; a tile is compared with
the same place of the other map and an edge around it, and what is no neighbour
is masked. On a CPU this is several times faster than products and sums of
moved maps, neighbour by neighbour, above all its gradient: such sums over the
channels are slow there, and each neighbour's gradient is a map of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Bool, Float, Int

LARGEST_TILE = 8

Map = Float[jax.Array, "b h w c"]
# From products, and which of them count, to weights.
Weigh = Callable[[jax.Array, np.ndarray], jax.Array]


def attend_neighbours(
  query: Map,
  key: Map,
  value: Map,
  grid: Int[np.ndarray, "n 2"],
  groups: int,
  weigh: Weigh,
) -> Float[jax.Array, "b h w c2"]:
  """Returns the weighted sum of each position's neighbours, group by group.

  The backward pass computes the weights again.

  Args:
    query: maps that ask.
    key: maps that are compared; zero outside.
    value: maps that are collected; zero outside.
    grid: rows and columns from a position to its neighbours.
    groups: parts of the channels with weights of their own.
    weigh: from products `(..., p, g, q)` of the positions p of a tile with
      positions q around it, and `(p, 1, q)` which of them are neighbours, to
      weights that are 0 for all others.
  """
  height, width = query.shape[1:3]
  before, behind = max(-int(grid.min()), 0), max(int(grid.max()), 0)
  edge = max(before, behind)
  sides = (_side(height, edge), _side(width, edge))
  allowed = neighbours_in_tile(sides, grid, before, behind)[:, None]
  kind = jnp.promote_types(query.dtype, jnp.float32)

  @jax.checkpoint
  def attend(query, key, value):
    q = _cut(query, sides, 0, 0)
    k, v = (_cut(x, sides, before, behind) for x in (key, value))
    products = jnp.einsum(
      "bmpgd,bmqgd->bmpgq",
      *(rearrange(x, "b m p (g d) -> b m p g d", g=groups) for x in (q, k)),
      preferred_element_type=kind,
    )
    weights = weigh(products, allowed).astype(value.dtype)
    y = jnp.einsum("bmpgq,bmqc->bmpgc", weights, v, preferred_element_type=kind)
    y = rearrange(
      y,
      "b (y x) (i j) g c -> b (y i) (x j) (g c)",
      y=-(-height // sides[0]),
      i=sides[0],
    )
    return y[:, :height, :width]

  return attend(query, key, value)


def neighbours_in_tile(
  sides: tuple[int, int],
  grid: Int[np.ndarray, "n 2"],
  before: int,
  behind: int,
) -> Bool[np.ndarray, "p q"]:
  """Returns which positions of a tile and its edge are neighbours.

  Args:
    sides: rows and columns of a tile, whose positions are p.
    grid: rows and columns from a position to its neighbours.
    before: width of the edge above and on the left; q are the positions of the
      tile with its edge.
    behind: width of the edge below and on the right.
  """
  rows, columns = (side + before + behind for side in sides)
  own = np.moveaxis(np.indices(sides), 0, -1).reshape(-1, 1, 2)
  places = own + grid + before
  allowed = np.zeros((own.shape[0], rows * columns), bool)
  flat = places[..., 0] * columns + places[..., 1]
  np.put_along_axis(allowed, flat, True, axis=1)
  return allowed


def _side(size: int, edge: int) -> int:
  """The side of the fewest equal tiles; an edge reaches one tile at most."""
  tiles = -(-size // LARGEST_TILE)
  return max(-(-size // tiles), edge)


def _cut(
  x: jax.Array, sides: tuple[int, int], before: int, behind: int
) -> jax.Array:
  """Cuts maps to tiles `(b, m, q, c)`; with edges, which overlap."""
  missing = [
    (0, -n % side) for n, side in zip(x.shape[1:3], sides, strict=True)
  ]
  x = jnp.pad(x, [(0, 0), *missing, (0, 0)])
  rows, columns = sides
  x = rearrange(x, "b (y i) (x j) c -> b y i x j c", i=rows, j=columns)
  for axis in (1, 3):
    x = _with_edges(x, axis, before, behind)
  return rearrange(x, "b y i x j c -> b (y x) (i j) c")


def _with_edges(x: jax.Array, axis: int, before: int, behind: int) -> jax.Array:
  """Adds the ends of the tiles on both sides along an axis (tile, place)."""
  side = x.shape[axis + 1]

  def shifted(first: int, last: int, tiles: int) -> jax.Array:
    part = lax.slice_in_dim(x, first, last, axis=axis + 1)
    zero = jnp.zeros((), x.dtype)
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (tiles, -tiles, 0)  # negative padding cuts a tile off
    return lax.pad(part, zero, edges)

  parts = [x]
  if before:
    parts.insert(0, shifted(side - before, side, 1))
  if behind:
    parts.append(shifted(0, behind, -1))
  return jnp.concatenate(parts, axis=axis + 1)
