"""Multi-head self-attention with a temporal plug, and the block around it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.nn.init import LinearInit
from vidjax.nn.intermediates import hand_out
from vidjax.nn.layers import LayerNorm, Mlp, dropout, linear
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens


def attend(
  q: Float[jax.Array, "b t n c"],
  k: Float[jax.Array, "b t m c"],
  v: Float[jax.Array, "b t m c"],
  *,
  heads: int,
  bias: Float[jax.Array, "#t g n m"] | None = None,
  mask: Float[np.ndarray, " w #t n m"] | None = None,
  dropout_rate: float = 0.0,
  train: bool = False,
  rngs: nnx.Rngs | None = None,
) -> Float[jax.Array, "b t n c"]:
  """Softmax attention over the m tokens of each frame, head by head.

  Logits and their exponentials are float32.

  Args:
    q: queries, channels head-major.
    k: keys.
    v: values.
    heads: g; the channels divide into g heads of d.
    bias: added to the logits of all clips and windows.
    mask: added to the logits of all heads; b is (clips w), w windows a frame.
    dropout_rate: probability that an attention weight is dropped.
    train: whether to drop.
    rngs: source of the dropout keys.
  """
  q, k, v = (
    rearrange(x, "b t n (g d) -> b t g n d", g=heads) for x in (q, k, v)
  )
  weights, total = _exponentials(q, k, bias, mask)
  weights = dropout(weights, dropout_rate, train=train, rngs=rngs)
  y = lax.platform_dependent(
    weights, total, v, cpu=divided_sum, default=sum_of_divided
  )
  return rearrange(y, "b t g n d -> b t n (g d)")


def divided_sum(
  weights: Float[jax.Array, "b t g n m"],
  total: Float[jax.Array, "b t g n 1"],
  v: Float[jax.Array, "b t g m d"],
) -> Float[jax.Array, "b t g n d"]:
  """Returns the weighted sum of values over the total: little to divide."""
  y = jnp.einsum("btgnm,btgmd->btgnd", weights.astype(v.dtype), v)
  return (y / total).astype(v.dtype)


def sum_of_divided(
  weights: Float[jax.Array, "b t g n m"],
  total: Float[jax.Array, "b t g n 1"],
  v: Float[jax.Array, "b t g m d"],
) -> Float[jax.Array, "b t g n d"]:
  """Returns the sum of values by weights over their total.

  With the other form the TPU compiler gives logits and sums layouts that do not
  agree, and copies all logits in the gradient again and again (docs/tpu.md).
  """
  return jnp.einsum("btgnm,btgmd->btgnd", (weights / total).astype(v.dtype), v)


def attention_weights(
  q: Float[jax.Array, "b t n c"],
  k: Float[jax.Array, "b t m c"],
  *,
  heads: int,
  bias: Float[jax.Array, "#t g n m"] | None = None,
  mask: Float[np.ndarray, " w #t n m"] | None = None,
) -> Float[jax.Array, "b t g n m"]:
  """Returns the float32 weights of `attend`, which takes the same arguments."""
  q, k = (rearrange(x, "b t n (g d) -> b t g n d", g=heads) for x in (q, k))
  weights, total = _exponentials(q, k, bias, mask)
  return weights / total


def _exponentials(
  q: jax.Array,
  k: jax.Array,
  bias: jax.Array | None,
  mask: np.ndarray | None,
) -> tuple[jax.Array, jax.Array]:
  """Exponentials of the logits of (b, t, g, n, d), and their sums over keys."""
  scale = q.shape[-1] ** -0.5
  logits = jnp.einsum(
    "btgnd,btgmd->btgnm",
    q * scale,
    k,
    preferred_element_type=jnp.float32,
  )
  if bias is not None:
    logits += bias
  if mask is not None:
    # The mask is repeated, so that the gradient of the logits is not copied.
    clips = logits.shape[0] // len(mask)
    repeated = jnp.broadcast_to(
      mask[:, :, None], (clips, *mask[:, :, None].shape)
    )
    logits += rearrange(repeated, "b w t g n m -> (b w) t g n m")
  largest = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  return weights, weights.sum(axis=-1, keepdims=True)


class Attention(nnx.Module):
  """Multi-head self-attention: one qkv projection, attention, projection.

  It hands out (`vidjax.nn.intermediates`) `q`, `k` and `v` as the plug regroups
  them, the `weights` (b t g n m), and the `output` of the attention.

  Args:
    dim: channels c.
    heads: heads g.
    qkv_bias: whether q, k and v have a bias.
    dropout_rate: of the attention weights.
    init: initial values of the projections.
    dtype: compute dtype; parameters are float32.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    *,
    qkv_bias: bool = True,
    dropout_rate: float = 0.0,
    init: LinearInit,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    if dim % heads:
      raise ValueError(
        f"{dim} channels do not divide into {heads} heads; change one of them"
      )
    self.heads = heads
    self.dropout_rate = dropout_rate
    self.qkv = linear(
      dim, 3 * dim, init=init, bias=qkv_bias, dtype=dtype, rngs=rngs
    )
    self.proj = linear(dim, dim, init=init, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    x: Tokens,
    temporal: Temporal,
    grid: Grid,
    *,
    train: bool,
    rngs: nnx.Rngs | None,
    bias: Float[jax.Array, "#t g n m"] | None = None,
    mask: Float[np.ndarray, " w #t n m"] | None = None,
  ) -> Tokens:
    """Attends among the tokens of a frame, as the plug regroups them.

    Args:
      x: tokens.
      temporal: the plug.
      grid: how the tokens of a frame lie.
      train: whether to drop attention weights.
      rngs: source of the dropout keys.
      bias: see `attend`, as the next.
      mask: which tokens of a window see each other.

    Raises:
      ValueError: if the plug regroups the tokens in a way that a bias or a
        mask cannot follow.
    """
    frames = x.shape[1]
    x = temporal.tokens(x, grid)
    q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
    q, k, v = temporal.qkv(q, k, v, grid)
    if (bias is not None or mask is not None) and k.shape != x.shape:
      raise ValueError(
        f"{type(temporal).__name__} makes keys of shape {k.shape} from tokens "
        f"of shape {x.shape}, which attention in windows cannot follow; use it "
        "on a ViT, or windows that span several frames"
      )
    y = attend(
      q,
      k,
      v,
      heads=self.heads,
      bias=bias,
      mask=mask,
      dropout_rate=self.dropout_rate,
      train=train,
      rngs=rngs,
    )
    hand_out(
      self,
      q=lambda: q,
      k=lambda: k,
      v=lambda: v,
      weights=lambda: attention_weights(
        q, k, heads=self.heads, bias=bias, mask=mask
      ),
      output=lambda: y,
    )
    return self.proj(temporal.output(y, grid, frames))


class Block(nnx.Module):
  """A pre-norm transformer block with a temporal plug.

  It hands out (`vidjax.nn.intermediates`) its `grid`: frames, class tokens,
  height and width.

  Args:
    shape: channels, heads, norm epsilon and initial values.
    temporal: the plug; `Temporal()` keeps attention inside each frame.
    mlp_ratio: hidden width of the MLP over `dim`.
    qkv_bias: whether q, k and v have a bias.
    drop_path: rate of dropped residual branches.
    drop_whole_clips: whether all frames of a clip drop a branch together.
    attention_dropout: rate of dropped attention weights.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    shape: BlockShape,
    temporal: Temporal,
    *,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    drop_path: float = 0.0,
    drop_whole_clips: bool = False,
    attention_dropout: float = 0.0,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    dim = shape.dim
    self.drop_path = drop_path
    self.drop_whole_clips = drop_whole_clips
    self.temporal = temporal
    self.norm1 = LayerNorm(dim, eps=shape.norm_eps, dtype=dtype, rngs=rngs)
    self.attention = Attention(
      dim,
      shape.heads,
      qkv_bias=qkv_bias,
      dropout_rate=attention_dropout,
      init=shape.init,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm2 = LayerNorm(dim, eps=shape.norm_eps, dtype=dtype, rngs=rngs)
    self.mlp = Mlp(
      dim, int(dim * mlp_ratio), init=shape.init, dtype=dtype, rngs=rngs
    )

  def __call__(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Applies attention and MLP units and the plug's own steps."""
    random = {"train": train, "rngs": rngs}
    hand_out(self, grid=lambda: jnp.array([x.shape[1], *grid]))
    x = self.temporal.before(x, grid, **random)
    y = self.attend(self.norm1(x), grid, **random)
    y = self.temporal.branch(y, grid)
    x = x + self._drop(y, **random)
    x = self.temporal.after(x, grid, **random)
    y = self.mlp(self.norm2(x))
    return x + self._drop(y, **random)

  def attend(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Returns what attention adds to the residual stream."""
    return self.attention(x, self.temporal, grid, train=train, rngs=rngs)

  def _drop(self, y: Tokens, **random: Any) -> Tokens:
    shared_axes = 3 if self.drop_whole_clips else 2
    return dropout(y, self.drop_path, shared_axes=shared_axes, **random)
