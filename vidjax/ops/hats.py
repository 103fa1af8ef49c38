"""Bilinear sampling by hat functions: matrix products, neither gather nor loop.

With hat(u) = max(0, 1 - |u|) the bilinear sample of numbers f at (row r, column
c) is the sum over all positions (y, x) of hat(y - r) hat(x - c) f[y, x]; zero
outside of the map comes by itself. See `vidjax.ops.bilinear`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

Coordinates = Float[jax.Array, "b p n"]


def hat(
  coordinates: Float[jax.Array, "*s"], size: int
) -> Float[jax.Array, "*s m"]:
  """Returns max(0, 1 - |i - coordinate|) for the positions i = 0 ... size - 1.

  At an integer coordinate, where the function has a corner, the derivative is
  the one to the right; at -1, where a sample leaves the map, it is zero. The
  official kernels have the same. NaN gives NaN everywhere.
  """
  # A sample has to be inside of the open interval (-1, size).
  inside = jnp.where(coordinates <= -1, -2, coordinates)
  floor = lax.stop_gradient(jnp.floor(inside))
  fraction = jnp.where(jnp.isinf(inside), 0, inside - floor)[..., None]
  cell = jnp.arange(size, dtype=floor.dtype) - floor[..., None]
  beyond = 0 * lax.stop_gradient(fraction)
  return jnp.where(
    cell == 0, 1 - fraction, jnp.where(cell == 1, fraction, beyond)
  ).astype(coordinates.dtype)


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
  height, width = numbers.shape[3:]
  along_rows = jnp.einsum("bpgyx,bpnx->bpgny", numbers, hat(columns, width))
  return (along_rows * hat(rows, height)[:, :, None]).sum(axis=-1)


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
  weighted = weights[..., None] * hat(rows, size[0])[:, :, None]
  return jnp.einsum("bpgny,bpnx->bpgyx", weighted, hat(columns, size[1]))
