"""Bilinear sampling at any place as products of matrices, without a gather.

With hat(u) = max(0, 1 - |u|) a bilinear sample of a map f at (row r, column c)
is the sum over all positions (y, x) of hat(y - r) hat(x - c) f[y, x]; zero
outside of the map comes by itself. So the product of a query with a sample is
the query's products with all positions, weighted by hats, and a weighted sum
of samples is one weighted sum of all positions: two large matrix products and
small ones, whatever the offsets. This is the form of inter-frame attention
(`vidjax.ops.interframe`) with offsets. The other one, gathers, has a scatter as
its gradient: up to 28 x 28 positions it is slower to train, and it takes up to
ten times the memory (benchmarks/interframe.py).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Float, Int

Map = Float[jax.Array, "b h w c"]
Weights = Float[jax.Array, "b i j g n"]


class Places(NamedTuple):
  """Where each position samples: n rows and columns of the map."""

  rows: Float[jax.Array, "*batch i j n"]
  columns: Float[jax.Array, "*batch i j n"]


def sampling_places(
  offsets: Float[jax.Array, "*batch h w n 2"], grid: Int[np.ndarray, "n 2"]
) -> Places:
  """Returns position + displacement + offset, in float32 at least.

  Args:
    offsets: rows and columns.
    grid: rows and columns from a position to its neighbours.
  """
  height, width = offsets.shape[-4:-2]
  kind = jnp.promote_types(offsets.dtype, jnp.float32)
  rows = np.arange(height)[:, None, None] + grid[:, 0]
  columns = np.arange(width)[:, None] + grid[:, 1]
  return Places(
    jnp.asarray(rows, kind) + offsets[..., 0],
    jnp.asarray(columns, kind) + offsets[..., 1],
  )


def hat(
  coordinates: Float[jax.Array, "*s"], size: int
) -> Float[jax.Array, "*s m"]:
  """Returns max(0, 1 - |i - coordinate|) for the positions i = 0 ... size - 1.

  At an integer coordinate, where the function has a corner, the derivative is
  the one to the right; at -1, where a sample leaves the map, it is zero. The
  official kernels have the same.
  """
  # A sample has to be inside of the open interval (-1, size).
  inside = jnp.where(coordinates > -1, coordinates, -2)
  floor = lax.stop_gradient(jnp.floor(inside))
  fraction = (inside - floor)[..., None]
  cell = jnp.arange(size, dtype=floor.dtype) - floor[..., None]
  return jnp.where(
    cell == 0, 1 - fraction, jnp.where(cell == 1, fraction, 0)
  ).astype(coordinates.dtype)


def correlate(
  query: Float[jax.Array, "b i j c"], key: Map, places: Places, groups: int = 1
) -> Weights:
  """Returns the products of each position with the n samples of its own.

  Args:
    query: positions i, j that ask: all of a map or some of its rows.
    key: maps that are sampled; zero outside.
    places: of the samples.
    groups: parts of the channels with products of their own.
  """
  height, width = key.shape[1:3]
  kind = places.rows.dtype
  products = jnp.einsum(
    "bpgd,bqgd->bpgq",
    rearrange(query, "b h w (g d) -> b (h w) g d", g=groups),
    rearrange(key, "b h w (g d) -> b (h w) g d", g=groups),
    preferred_element_type=kind,
  )
  products = rearrange(products, "b p g (y x) -> b p g y x", y=height)
  rows, columns = _flat_hats(places, height, width)
  along_rows = jnp.einsum("bpgyx,bpnx->bpgny", products, columns)
  sampled = (along_rows * rows[:, :, None]).sum(axis=-1)
  return sampled.reshape(*query.shape[:-1], groups, -1)


def aggregate(
  weights: Weights, value: Map, places: Places
) -> Float[jax.Array, "b i j c2"]:
  """Returns the weighted sum of each position's samples, group by group.

  Args:
    weights: of the n samples.
    value: maps that are sampled; zero outside.
    places: of the samples.
  """
  height, width = value.shape[1:3]
  rows, columns = _flat_hats(places, height, width)
  flat = rearrange(weights, "b h w g n -> b (h w) g n")
  weighted = flat[..., None] * rows[:, :, None]
  spread = jnp.einsum("bpgny,bpnx->bpgyx", weighted, columns)
  y = jnp.einsum(
    "bpgq,bqc->bpgc",
    rearrange(spread, "b p g y x -> b p g (y x)").astype(value.dtype),
    rearrange(value, "b h w c -> b (h w) c"),
    preferred_element_type=weights.dtype,
  )
  return y.reshape(*weights.shape[:3], -1)


def _flat_hats(
  places: Places, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
  rows, columns = (rearrange(x, "b h w n -> b (h w) n") for x in places)
  return hat(rows, height), hat(columns, width)
