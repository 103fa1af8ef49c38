"""The plugs that attend over space and time: jointly, or one by one."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import DTypeLike, Float

from vidjax.nn.attention import Attention
from vidjax.nn.init import zero_init
from vidjax.nn.layers import LayerNorm, linear
from vidjax.nn.temporal import BlockShape, Grid, Regrouped, Temporal, Tokens


class JointAttention(Temporal):
  """Every token attends to all tokens of all frames of the clip."""

  def qkv(self, q: Tokens, k: Tokens, v: Tokens, grid: Grid) -> Regrouped:
    """Joins the frames of a clip to a single long one."""
    del grid
    q, k, v = (rearrange(x, "b t n c -> b 1 (t n) c") for x in (q, k, v))
    return q, k, v

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Cuts the long frame into the clip's frames."""
    del grid
    return rearrange(y, "b 1 (t n) c -> b t n c", t=frames)


class DividedAttention(Temporal):
  """TimeSformer's divided space-time attention (Bertasius et al. 2021).

  Ahead of the spatial attention each patch attends to its own position in all
  frames, through a norm, an attention and a linear layer that starts at zero.
  Class tokens that enter equal stay equal, which is TimeSformer's single one:
  what spatial attention gives them is averaged over the frames.
  """

  def __init__(self, block: BlockShape, *, dtype: DTypeLike, rngs: nnx.Rngs):
    dim = block.dim
    self.norm = LayerNorm(dim, eps=block.norm_eps, dtype=dtype, rngs=rngs)
    self.attention = Attention(
      dim, block.heads, init=block.init, dtype=dtype, rngs=rngs
    )
    self.fc = linear(dim, dim, init=zero_init, dtype=dtype, rngs=rngs)

  def before(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Adds the temporal attention of the patches."""
    first = grid.class_tokens
    tracks = rearrange(x[:, :, first:], "b t n c -> b n t c")
    y = self.attention(
      self.norm(tracks), Temporal(), grid, train=train, rngs=rngs
    )
    return x.at[:, :, first:].add(rearrange(self.fc(y), "b n t c -> b t n c"))

  def output(
    self, y: Float[jax.Array, "b2 t2 n2 c"], grid: Grid, frames: int
  ) -> Tokens:
    """Averages what the class tokens received."""
    del frames
    classes = y[:, :, : grid.class_tokens]
    mean = classes.mean(axis=1, keepdims=True)
    return y.at[:, :, : grid.class_tokens].set(
      jnp.broadcast_to(mean, classes.shape)
    )
