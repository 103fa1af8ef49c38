"""Bilinear sampling by its four corners: single numbers, read and added.

The bilinear sample at (row r, column c) is the sum over the four positions
around it of (1 - |y - r|) (1 - |x - c|) f[y, x]; zero outside of the map. See
`vidjax.ops.bilinear`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int32

Coordinates = Float[jax.Array, "b p n"]


def sample(
  numbers: Float[jax.Array, "b p g y x"],
  rows: Coordinates,
  columns: Coordinates,
) -> Float[jax.Array, "b p g n"]:
  """Samples each position's own numbers at n places of its own.

  Args:
    numbers: of position p with all positions (y, x); zero outside.
    rows: of the places.
    columns: of the places.
  """
  places, shares = _corners(rows, columns, numbers.shape[3:])

  def read(numbers, places):
    return numbers.reshape(-1).at[places].get(mode="promise_in_bounds")

  read = jax.vmap(read, (0, None))  # the groups share their places
  found = jax.vmap(jax.vmap(read))(numbers, places)
  parts = [
    found[..., i, :] * share[:, :, None] for i, share in enumerate(shares)
  ]
  return functools.reduce(jnp.add, parts)


def spread(
  weights: Float[jax.Array, "b p g n"],
  rows: Coordinates,
  columns: Coordinates,
  size: tuple[int, int],
) -> Float[jax.Array, "b p g y x"]:
  """Distributes weights of samples over the positions: `sample` transposed.

  Args:
    weights: of the samples of position p.
    rows: of the places.
    columns: of the places.
    size: rows and columns of the result.
  """
  places, shares = _corners(rows, columns, size)
  parts = [weights * share[:, :, None] for share in shares]

  def add(parts, places):
    numbers = jnp.zeros(size[0] * size[1], parts.dtype)
    numbers = numbers.at[places].add(parts, mode="promise_in_bounds")
    return numbers.reshape(size)

  add = jax.vmap(add, (0, None))
  return jax.vmap(jax.vmap(add))(jnp.stack(parts, axis=-2), places)


def sample_maps(
  maps: Float[jax.Array, "b y x c"], rows: Coordinates, columns: Coordinates
) -> Float[jax.Array, "b p n c"]:
  """Samples maps at n places of each position p; all channels together.

  Args:
    maps: zero outside.
    rows: of the places.
    columns: of the places.
  """
  places, shares = _corners(rows, columns, maps.shape[1:3])

  @jax.vmap
  def read(image, places):
    return image.at[places].get(mode="promise_in_bounds")

  flat = maps.reshape(maps.shape[0], -1, maps.shape[-1])
  # Corner by corner: read at once, they would be held.
  parts = [
    read(flat, places[:, :, i]) * share[..., None]
    for i, share in enumerate(shares)
  ]
  return functools.reduce(jnp.add, parts)


def _corners(
  rows: Coordinates, columns: Coordinates, size: tuple[int, ...]
) -> tuple[Int32[jax.Array, "b p 4 n"], list[Coordinates]]:
  """Places in the flat map, and shares, of the four corners of each sample."""
  height, width = size
  four = [
    (row * width + column, share * other)
    for (row, share), (column, other) in itertools.product(
      sides(rows, height), sides(columns, width)
    )
  ]
  places, shares = zip(*four, strict=True)
  return jnp.stack(places, axis=-2), list(shares)


def sides(
  coordinates: Coordinates, size: int
) -> list[tuple[Int32[jax.Array, "b p n"], Coordinates]]:
  """Returns the positions on both sides of coordinates, each with its share.

  A position outside of 0 ... size - 1 stands as the nearest inside, with a
  share of zero. Derivatives and NaN are those of `vidjax.ops.hats.hat`.
  """
  outside = (coordinates <= -1) | (coordinates >= size)
  inside = jnp.where(outside, 0, coordinates)
  floor = lax.stop_gradient(jnp.floor(inside))
  fraction = inside - floor
  first = jnp.nan_to_num(floor).astype(jnp.int32)
  return [
    (
      jnp.clip(place, 0, size - 1),
      share * ((place >= 0) & (place < size) & ~outside),
    )
    for place, share in ((first, 1 - fraction), (first + 1, fraction))
  ]
