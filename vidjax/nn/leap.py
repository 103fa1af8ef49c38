"""The plug of LAPS: leap attention and periodic shift."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from vidjax.checks import at_least, one_of
from vidjax.nn.temporal import BlockShape, Grid, Regrouped, Temporal, Tokens
from vidjax.ops.leap import (
  leap_pairs,
  leaps_over_shards,
  partners,
  unpair,
)
from vidjax.ops.periodic_shift import periodic_shift, plain_shift

SHIFTS = ("periodic", "plain", "none")


class LeapAttention(Temporal):
  """Attention over pairs of frames, then a shift of channels in time.

  LAPS (Zhang et al. 2022). All tokens of a frame take part, class tokens too.
  Without parameters: weights of image models and of all variants fit.

  Args:
    block: shape of the block.
    index: number of the block among those of the backbone.
    levels: leap levels that the blocks take in turn, from the first again
      after the last; None keeps attention inside the frame
      (`vidjax.ops.leap`).
    shift: "periodic" (of every head), "plain" (of all channels at once) or
      "none".
    fold_div: one of `fold_div` parts of the channels comes from the next
      frame and one from the previous.

  Raises:
    ValueError: if an option is out of range.
  """

  def __init__(
    self,
    block: BlockShape,
    index: int,
    *,
    levels: Sequence[int | None] = (1, 2, 3),
    shift: str = "periodic",
    fold_div: int = 4,
  ):
    if not levels:
      raise ValueError("levels is empty; give one, or None for no pairs")
    at_least(1, levels=min((n for n in levels if n is not None), default=1))
    at_least(2, fold_div=fold_div)
    self.level = levels[index % len(levels)]
    self.shift = one_of("shift", shift, SHIFTS)
    self.heads = block.heads
    self.fold_div = fold_div

  def qkv(self, q: Tokens, k: Tokens, v: Tokens, grid: Grid) -> Regrouped:
    """Joins the tokens of paired frames.

    Where they lie on different devices, each keeps the queries of its own
    frames and gets the keys and values of their partners.
    """
    del grid
    level = self.level
    if level is None:
      return q, k, v
    if leaps_over_shards(q.shape[1], level):
      k, v = (jnp.concatenate([x, partners(x, level)], axis=2) for x in (k, v))
      return q, k, v
    return leap_pairs(q, level), leap_pairs(k, level), leap_pairs(v, level)

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Brings the tokens back to their frames and shifts their channels."""
    del grid
    if self.level is not None and y.shape[1] != frames:
      y = unpair(y, self.level)
    if self.shift == "periodic":
      return periodic_shift(y, self.heads, self.fold_div)
    if self.shift == "plain":
      return plain_shift(y, self.fold_div)
    return y
