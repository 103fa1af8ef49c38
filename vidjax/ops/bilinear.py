"""Products with bilinear samples at any place of a map, without holding them.

A bilinear sample is a weighted sum of four positions. So the product of a query
with a sample is a sum of the query's products with all positions, and a sum of
samples is one sum over all positions: a large matrix product each, and between
them only numbers by pair of positions, not whole channels. Inter-frame
attention with offsets (`vidjax.ops.interframe`) is made of them; gathering the
samples themselves has a scatter of whole channels as its gradient, and takes
several times the memory (benchmarks/interframe.md).

The numbers are read and added one by one on a CPU (`vidjax.ops.corners`); on
other platforms, where that is slow, hat functions do it in matrix products
(`vidjax.ops.hats`).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Float, Int

from vidjax.ops import corners, hats

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
  products = jnp.einsum(
    "bpgd,bqgd->bpgq",
    rearrange(query, "b h w (g d) -> b (h w) g d", g=groups),
    rearrange(key, "b h w (g d) -> b (h w) g d", g=groups),
    preferred_element_type=places.rows.dtype,
  )
  products = rearrange(products, "b p g (y x) -> b p g y x", y=key.shape[1])
  sampled = lax.platform_dependent(
    products, *_flat(places), cpu=corners.sample, default=hats.sample
  )
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
  spread = lax.platform_dependent(
    rearrange(weights, "b h w g n -> b (h w) g n"),
    *_flat(places),
    cpu=functools.partial(corners.spread, size=(height, width)),
    default=functools.partial(hats.spread, size=(height, width)),
  )
  y = jnp.einsum(
    "bpgq,bqc->bpgc",
    rearrange(spread, "b p g y x -> b p g (y x)").astype(value.dtype),
    rearrange(value, "b h w c -> b (h w) c"),
    preferred_element_type=weights.dtype,
  )
  return y.reshape(*weights.shape[:3], -1)


def sample_maps(value: Map, places: Places) -> Float[jax.Array, "b i j n c"]:
  """Returns the samples themselves, float32 at least: K x K maps.

  Args:
    value: maps that are sampled; zero outside.
    places: of the samples.
  """
  samples = corners.sample_maps(value, *_flat(places))
  return samples.reshape(*places.rows.shape, -1)


def _flat(places: Places) -> tuple[jax.Array, jax.Array]:
  rows, columns = (rearrange(x, "b i j n -> b (i j) n") for x in places)
  return rows, columns
