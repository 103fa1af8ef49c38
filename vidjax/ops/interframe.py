"""Stand-alone inter-frame attention (SIFA, Long et al. 2022, section 3).

Every position p of frame t looks at K x K neighbours in frame t + 1, around p
and moved by offsets:

    A_k(p) = f_t[p] . S_k(p) / C            S_k(p): sample of f_t+1, bilinear
    Y_t(p) = sum over k of A_k(p) S_k(p)    the last frame receives zero

Outside of the map is zero. There are no projections, no heads and no softmax.

Arrays are `(b, t, h, w, c)`; there are s = t - 1 pairs of frames. Without
offsets it is masked attention in small tiles (`vidjax.ops.neighbours`). With
them samples are taken of products (`vidjax.ops.bilinear`), and on a CPU the
forward pass takes those of the map itself (`vidjax.ops.corners`): it is faster
there, but its gradient would be a scatter of whole channels.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import lax
from jaxtyping import Float, Int

from vidjax.checks import at_least, one_of
from vidjax.ops.bilinear import (
  Places,
  aggregate,
  correlate,
  sample_maps,
  sampling_places,
)
from vidjax.ops.neighbours import Weigh, attend_neighbours

SCORES = ("scaled", "softmax")
# Numbers held at once for each clip: products of positions with positions of
# the map, or channels of samples.
MOST_NUMBERS = 2**19


def displacements(kernel: int, dilation: int = 1) -> Int[np.ndarray, "n 2"]:
  """Returns rows and columns from a position to its neighbours, row by row.

  Args:
    kernel: K; with an odd one the neighbours lie around the position.
    dilation: distance of neighbours that lie side by side.

  Raises:
    ValueError: if an argument is below 1.
  """
  at_least(1, kernel=kernel, dilation=dilation)
  first = (dilation * (kernel - 1) + 1) // 2
  steps = dilation * np.arange(kernel) - first
  return np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)


# A program of its own by name, so that a count of multiply-adds can tell its
# large products, which stand for sums over few neighbours, from a layer's.
@functools.partial(
  jax.jit, static_argnames=("kernel", "dilation", "groups", "score")
)
def interframe_attention(
  q: Float[jax.Array, "b t h w c"],
  k: Float[jax.Array, "b t h w c"],
  v: Float[jax.Array, "b t h w c"],
  offsets: Float[jax.Array, "b s h w n 2"] | None = None,
  *,
  kernel: int = 3,
  dilation: int = 1,
  groups: int = 1,
  score: str = "scaled",
) -> Float[jax.Array, "b t h w c2"]:
  """Returns what every frame receives from the next one.

  In the paper q, k and v are the same map. Scores, sums and coordinates are
  float32 at least.

  Args:
    q: maps whose frame t asks.
    k: maps whose frame t + 1 is compared.
    v: maps whose frame t + 1 is collected, at the same places.
    offsets: rows and columns, in positions of the map, that each of the n =
      K * K neighbours (`displacements`) lies away from its place in the grid;
      those of the pair of frames (t, t + 1) are at t. Any size; None is zero.
    kernel: K.
    dilation: distance of neighbours that lie side by side.
    groups: parts of the channels with scores of their own. Each collects all
      channels: the result has c2 = groups * c, group after group.
    score: "scaled", the product over C, or "softmax" over the neighbours of
      the product over the root of a group's channels.

  Raises:
    ValueError: if an argument is unknown, or the groups do not divide the
      channels.
  """
  one_of("score", score, SCORES)
  grid = displacements(kernel, dilation)
  t, c = q.shape[1], q.shape[-1]
  if groups < 1 or c % groups:
    raise ValueError(
      f"{c} channels do not divide into {groups} groups; change one of them"
    )
  if t == 1:
    return jnp.zeros((*q.shape[:-1], groups * c), q.dtype)

  def weigh(products: jax.Array, allowed: np.ndarray) -> jax.Array:
    if score == "scaled":
      return jnp.where(allowed, products / c, 0)
    logits = jnp.where(allowed, products * (groups / c) ** 0.5, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)

  query, key, value = q[:, :-1], k[:, 1:], v[:, 1:]
  if offsets is None:
    query, key, value = (
      rearrange(x, "b s h w c -> (b s) h w c") for x in (query, key, value)
    )
    y = attend_neighbours(query, key, value, grid, groups, weigh)
    y = rearrange(y, "(b s) h w c -> b s h w c", s=t - 1)
  else:
    y = _deformed(query, key, value, offsets, grid, groups, weigh)
  return jnp.pad(y.astype(q.dtype), [(0, 0), (0, 1), *[(0, 0)] * 3])


def _deformed(query, key, value, offsets, grid, groups, weigh) -> jax.Array:
  """One pair of frames after the other, some rows of positions at a time.

  A position is compared with the whole map, so products of all are more than
  should be held at once; the backward pass computes them again.
  """
  height, width, channels = query.shape[2:]
  each = max(height * width, len(grid) * channels)
  rows = _rows_at_a_time(height, width * each)
  places = sampling_places(offsets, grid)
  query, *places = (
    rearrange(x, "b s (r y) w c -> s r b y w c", y=rows)
    for x in (query, *places)
  )
  attend = _attention(groups, weigh)

  def attend_pair(pair):
    query, key, value, *places = pair
    return lax.map(
      lambda part: attend(part[0], key, value, Places(*part[1:])),
      (query, *places),
    )

  key, value = (jnp.moveaxis(x, 1, 0) for x in (key, value))
  y = lax.map(attend_pair, (query, key, value, *places))
  return rearrange(y, "s r b y w c -> b s (r y) w c")


def _attention(groups: int, weigh: Weigh) -> Callable[..., jax.Array]:
  """Attention of some rows: `(query, key, value, places) -> y`."""
  everywhere = np.array(True)

  def by_products(query, key, value, places):
    products = correlate(query, key, places, groups)
    return aggregate(weigh(products, everywhere), value, places)

  def by_samples(query, key, value, places):
    keys, values = (sample_maps(x, places) for x in (key, value))
    # Group by group: one product with a group axis copies the samples.
    products = [
      jnp.einsum("bijd,bijnd->bijn", *parts)
      for parts in zip(
        jnp.split(query.astype(keys.dtype), groups, axis=-1),
        jnp.split(keys, groups, axis=-1),
        strict=True,
      )
    ]
    weights = weigh(jnp.stack(products, axis=3), everywhere)
    return jnp.concatenate(
      [
        jnp.einsum("bijn,bijnc->bijc", weights[:, :, :, group], values)
        for group in range(groups)
      ],
      axis=-1,
    )

  @jax.custom_vjp
  def attend(*arguments):
    return lax.platform_dependent(
      *arguments, cpu=by_samples, default=by_products
    )

  attend.defvjp(
    lambda *arguments: (attend(*arguments), arguments),
    lambda arguments, g: jax.vjp(by_products, *arguments)[1](g),
  )
  return attend


def _rows_at_a_time(height: int, numbers: int) -> int:
  """The most rows that divide the map, of so many numbers each, to be held."""
  fitting = [
    rows
    for rows in range(1, height + 1)
    if height % rows == 0 and rows * numbers <= MOST_NUMBERS
  ]
  return max(fitting, default=1)
