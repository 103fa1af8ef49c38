"""The plug: how a temporal operation enters a backbone's blocks.

A block is `x += attention(norm(x)); x += mlp(norm(x))`. A plug may act at six
places, and every system is a plug that overrides one or two of them:

    before   the residual stream, ahead of the attention unit   (TokShift,
             divided attention)
    tokens   the normalised tokens, ahead of q, k, v            (patch shift,
             channel shift, mixing of x)
    qkv      the projected q, k, v                              (mixing of k
             and v, leap pairs, joint attention)
    output   what attention returns, ahead of its projection    (undoing a
             shift or a pairing, periodic shift)
    branch   what the attention unit adds to the residual stream      (SIFA, as
             the paper draws it)
    after    the residual stream, ahead of the MLP unit         (TokShift, SIFA)

Tokens are `(b, t, n, c)` everywhere, channels head-major. In a backbone with
windows `tokens`, `qkv` and `output` see each window as a grid of its own, the
windows of a frame folded into b; `before` and `after` see the whole frame.
"""

from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from vidjax.nn.init import LinearInit

Tokens = Float[jax.Array, "b t n c"]
# Queries, keys and values as a plug regrouped them.
Regrouped = tuple[
  Float[jax.Array, "b2 t2 n2 c"],
  Float[jax.Array, "b2 t2 m2 c"],
  Float[jax.Array, "b2 t2 m2 c"],
]


class Grid(NamedTuple):
  """How the n tokens of a frame lie: class tokens first, then row by row."""

  class_tokens: int
  height: int
  width: int


class BlockShape(NamedTuple):
  """What a block and its plug are built from.

  Attributes:
    dim: channels c.
    heads: attention heads g.
    norm_eps: epsilon of the layer norms.
    init: initial values of the linear layers.
    stage: the backbone's stage that the block is in, from 0.
    place: number of the block inside its stage, from 0.
  """

  dim: int
  heads: int
  norm_eps: float
  init: LinearInit
  stage: int = 0
  place: int = 0


class Temporal(nnx.Module):
  """The plug that does nothing: attention stays inside each frame."""

  def before(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Changes the residual stream ahead of the attention unit."""
    del grid, train, rngs
    return x

  def tokens(self, x: Tokens, grid: Grid) -> Tokens:
    """Changes the normalised tokens ahead of the q, k, v projection."""
    del grid
    return x

  def qkv(self, q: Tokens, k: Tokens, v: Tokens, grid: Grid) -> Regrouped:
    """Changes or regroups queries, keys and values.

    The result may have other t and n, and k and v more tokens than q.
    """
    del grid
    return q, k, v

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Brings what attention returned back to `(b, frames, n, c)`."""
    del grid, frames
    return y

  def branch(self, y: Tokens, grid: Grid) -> Tokens:
    """Changes what the attention unit adds to the residual stream."""
    del grid
    return y

  def source_frames(self, frames: int, grid: Grid) -> Int[np.ndarray, "t n"]:
    """Returns the frame whose token each token stands for in `qkv`.

    A position bias over time looks its values up there.
    """
    tokens = grid.class_tokens + grid.height * grid.width
    return np.repeat(np.arange(frames)[:, None], tokens, axis=1)

  def after(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Changes the residual stream ahead of the MLP unit."""
    del grid, train, rngs
    return x
