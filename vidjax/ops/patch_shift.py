"""Temporal patch shift: tokens swap frames (TPS, Xiang et al. 2022).

Section 3.2: the tokens of a window take their values from other frames of the
clip, each by the offset of its place in a small repeated pattern; attention
inside a frame then sees several frames, at no multiply-add. The move is a
permutation of the clip's tokens and is undone after the attention.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vidjax.checks import one_of
from vidjax.ops import halo

Pattern = tuple[tuple[int, ...], ...]

# Offsets by row and column, in frames; +1 brings a token from one frame ago.
# The paper's Figures 2 and 5; the number counts the distinct frames.
PATTERNS: dict[str, Pattern] = {
  "a3": ((0, 1), (-1, 0)),
  "b4": ((0, 1), (-1, 2)),
  "c9": ((-4, 1, 2), (-1, 0, 3), (-2, -3, 4)),  # of all published models
  "d16": ((0, 1, 2, 3), (-1, -7, 4, 5), (-2, -4, 7, 6), (-3, -5, -6, 8)),
  "centre_one": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
  # Named in Table 2a but drawn nowhere: the even mosaic of two frames.
  "even_2": ((0, 1), (1, 0)),
}


def check_pattern(pattern: str | Sequence[Sequence[int]]) -> Pattern:
  """Returns a pattern by its name, or a given one after checking it.

  Args:
    pattern: a key of `PATTERNS`, or rows of offsets in frames.

  Raises:
    ValueError: if the name is unknown, the rows are not a rectangle, or the
      pattern is a repetition of a smaller one.
    TypeError: if an offset is not a whole number.
  """
  if isinstance(pattern, str):
    return PATTERNS[one_of("pattern", pattern, tuple(PATTERNS))]
  rows = tuple(tuple(operator.index(n) for n in row) for row in pattern)
  if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
    raise ValueError(
      f"the patch shift pattern {pattern!r} is not a rectangle; give rows of "
      "equal length, such as ((0, 1), (-1, 0))"
    )
  smaller = _unit(rows)
  if smaller != rows:
    raise ValueError(
      f"the patch shift pattern {pattern!r} repeats {smaller!r}; give that "
      "one, it is repeated over the tokens anyway"
    )
  return rows


def _unit(rows: Pattern) -> Pattern:
  """The smallest rectangle whose repetition is the pattern."""
  height, width = len(rows), len(rows[0])
  for h in (d for d in range(1, height + 1) if height % d == 0):
    for w in (d for d in range(1, width + 1) if width % d == 0):
      unit = tuple(row[:w] for row in rows[:h])
      if tuple(row * (width // w) for row in unit) * (height // h) == rows:
        return unit
  return rows


def mosaic(
  pattern: str | Sequence[Sequence[int]], height: int, width: int
) -> Int[np.ndarray, " n"]:
  """Returns the offset of each token of a grid, row by row, in frames.

  The token in row y and column x has the pattern's entry at
  `(y mod rows, x mod columns)`.
  """
  table = np.array(check_pattern(pattern))
  rows = np.arange(height) % table.shape[0]
  columns = np.arange(width) % table.shape[1]
  return table[rows[:, None], columns].reshape(-1)


def source_frames(
  frames: int, offsets: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "t n"]:
  """Returns the frame that each token of a shifted frame comes from.

  It is `(t - offset) mod frames`: time is a circle.
  """
  return (np.arange(frames)[:, None] - offsets) % frames


def shift_patches(
  x: Float[jax.Array, "b t n c"], offsets: Int[np.ndarray, " n"]
) -> Float[jax.Array, "b t n c"]:
  """Takes token n of frame t from frame `(t - offsets[n]) mod t`.

  `shift_patches(y, -offsets)` is its exact inverse.

  Args:
    x: tokens of all frames; all their channels move.
    offsets: frames that each token moves forward in time.

  Of frames that are split over devices those tokens alone cross a border whose
  offset takes them there.
  """
  shards = halo.frame_shards(x.shape[1])
  return _permutation(x.shape[1], shards, tuple(offsets.tolist()))(x)


@functools.lru_cache(maxsize=256)
def _permutation(
  frames: int, shards: int, offsets: tuple[int, ...]
) -> Callable[[jax.Array], jax.Array]:
  """A gather of whole tokens at constant places, and so is its gradient.

  Without a rule of its own the gradient would be a scatter, which costs four
  times as much on a CPU (benchmarks/patch_shift.py). Of the static forms (rolls
  and selects, concatenated slices) the gather is the nearest to a plain copy.
  """
  shift = functools.partial(_shift, moves(frames // shards, shards, offsets))
  inverse = tuple(-offset for offset in offsets)

  @jax.custom_vjp
  def permute(x):
    return halo.over_frames(shift, x)

  permute.defvjp(
    lambda x: (permute(x), None),
    lambda _, g: (_permutation(frames, shards, inverse)(g),),
  )
  return permute


class Moves(NamedTuple):
  """Where the tokens of a shard come from.

  Attributes:
    given: by distance of another shard, the tokens that it gives, as indices
      in its flattened (t n) axis.
    places: index of each token's source among the shard's own tokens and those
      that it is given, in that order.
  """

  given: dict[int, Int[np.ndarray, " m"]]
  places: Int[np.ndarray, " m"]


def moves(frames: int, shards: int, offsets: tuple[int, ...]) -> Moves:
  """Returns the moves of a clip that is split over a number of shards.

  They are the same for all shards, since time is a circle.

  Args:
    frames: of a shard.
    shards: that the clip is split over.
    offsets: of each token of a frame, in frames.
  """
  tokens = len(offsets)
  source = np.arange(frames)[:, None] - np.array(offsets, int)
  hop = (source // frames % shards).reshape(-1)
  index = (source % frames * tokens + np.arange(tokens)).reshape(-1)
  given, places = {}, np.where(hop, 0, index)
  first = frames * tokens
  for distance in sorted({*hop.tolist()} - {0}):
    there = hop == distance
    given[distance] = index[there].astype(np.int32)
    places[there] = first + np.arange(there.sum())
    first += there.sum()
  return Moves(given, places.astype(np.int32))


def _shift(moves: Moves, x: jax.Array) -> jax.Array:
  b, t, n, c = x.shape
  own = x.reshape(b, t * n, c)
  others = [
    halo.from_shard(_take(own, places), distance, cyclic=True)
    for distance, places in moves.given.items()
  ]
  return _take(jnp.concatenate([own, *others], axis=1), moves.places).reshape(
    x.shape
  )


def _take(x: jax.Array, places: np.ndarray) -> jax.Array:
  return x.at[:, places].get(mode="promise_in_bounds", unique_indices=True)
