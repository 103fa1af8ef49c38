"""Multi-head self-attention with a temporal plug, and the block around it."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.nn.init import LinearInit
from vidjax.nn.layers import Mlp, dropout, layer_norm, linear
from vidjax.nn.temporal import BlockShape, Grid, Temporal, Tokens


def attend(
  q: Float[jax.Array, "b t n c"],
  k: Float[jax.Array, "b t m c"],
  v: Float[jax.Array, "b t m c"],
  *,
  heads: int,
  dropout_rate: float = 0.0,
  train: bool = False,
  rngs: nnx.Rngs | None = None,
) -> Float[jax.Array, "b t n c"]:
  """Softmax attention over the m tokens of each frame, head by head.

  Logits and their exponentials are float32. The division by the sum of the
  exponentials comes after the product with v, where there is less to divide.

  Args:
    q: queries, channels head-major.
    k: keys.
    v: values.
    heads: g; the channels divide into g heads of d.
    dropout_rate: probability that an attention weight is dropped.
    train: whether to drop.
    rngs: source of the dropout keys.
  """
  q, k, v = (
    rearrange(x, "b t n (g d) -> b t g n d", g=heads) for x in (q, k, v)
  )
  scale = q.shape[-1] ** -0.5
  logits = jnp.einsum(
    "btgnd,btgmd->btgnm",
    q * scale,
    k,
    preferred_element_type=jnp.float32,
  )
  largest = lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  weights = jnp.exp(logits - largest)
  total = weights.sum(axis=-1, keepdims=True)
  weights = dropout(weights, dropout_rate, train=train, rngs=rngs)
  y = jnp.einsum("btgnm,btgmd->btgnd", weights.astype(v.dtype), v)
  y = (y / total).astype(v.dtype)
  return rearrange(y, "b t g n d -> b t n (g d)")


class Attention(nnx.Module):
  """Multi-head self-attention: one qkv projection, attention, projection.

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
  ) -> Tokens:
    """Attends among the tokens of a frame, as the plug regroups them."""
    frames = x.shape[1]
    x = temporal.tokens(x, grid)
    q, k, v = jnp.split(self.qkv(x), 3, axis=-1)
    q, k, v = temporal.qkv(q, k, v, grid)
    y = attend(
      q,
      k,
      v,
      heads=self.heads,
      dropout_rate=self.dropout_rate,
      train=train,
      rngs=rngs,
    )
    return self.proj(temporal.output(y, grid, frames))


class Block(nnx.Module):
  """A pre-norm transformer block with a temporal plug.

  Args:
    shape: channels, heads, norm epsilon and initial values.
    temporal: the plug; `Temporal()` keeps attention inside each frame.
    mlp_ratio: hidden width of the MLP over `dim`.
    qkv_bias: whether q, k and v have a bias.
    drop_path: rate of dropped residual branches.
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
    attention_dropout: float = 0.0,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    dim = shape.dim
    self.drop_path = drop_path
    self.temporal = temporal
    self.norm1 = layer_norm(dim, eps=shape.norm_eps, dtype=dtype, rngs=rngs)
    self.attention = Attention(
      dim,
      shape.heads,
      qkv_bias=qkv_bias,
      dropout_rate=attention_dropout,
      init=shape.init,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm2 = layer_norm(dim, eps=shape.norm_eps, dtype=dtype, rngs=rngs)
    self.mlp = Mlp(
      dim, int(dim * mlp_ratio), init=shape.init, dtype=dtype, rngs=rngs
    )

  def __call__(
    self, x: Tokens, grid: Grid, *, train: bool, rngs: nnx.Rngs | None
  ) -> Tokens:
    """Applies attention and MLP units and the plug's own steps."""
    random = {"train": train, "rngs": rngs}
    x = self.temporal.before(x, grid, **random)
    y = self.attention(self.norm1(x), self.temporal, grid, **random)
    x = x + dropout(y, self.drop_path, shared_axes=2, **random)
    x = self.temporal.after(x, grid, **random)
    y = self.mlp(self.norm2(x))
    return x + dropout(y, self.drop_path, shared_axes=2, **random)
