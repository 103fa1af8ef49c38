"""Small layers: linear, norm, patch embedding, MLP, dropouts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.nn.init import LinearInit, torch_init
from vidjax.ops import halo


def linear(
  dim: int,
  out: int,
  *,
  init: LinearInit,
  bias: bool = True,
  dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> nnx.Linear:
  """A linear layer on the last axis with one of the initial value rules."""
  kernel_init, bias_init = init(dim)
  return nnx.Linear(
    dim,
    out,
    use_bias=bias,
    kernel_init=kernel_init,
    bias_init=bias_init,
    dtype=dtype,
    dot_general=_dot_general,
    rngs=rngs,
  )


def _dot_general(
  x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any
) -> jax.Array:
  """`lax.dot_general` of the last axis of x, with `_product`'s gradient."""
  if halo.is_split():  # to join the axes b and t would gather the frames
    return lax.dot_general(x, kernel, dimensions, **options)
  return _product(x, kernel)


@jax.custom_vjp
def _product(
  x: Float[jax.Array, "*n c"], kernel: Float[jax.Array, "c d"]
) -> Float[jax.Array, "*n d"]:
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _product_gradient(
  given: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = given
  dx = lax.dot_general(dy, kernel, (((dy.ndim - 1,), (1,)), ((), ())))
  # Of a sum over several axes XLA makes a transposed copy of dy on CPUs, and
  # computes what led to dy once more for it; other layouts may not be joined
  # without a copy.
  dkernel = lax.platform_dependent(
    x, dy, cpu=_joined_outer_product, default=_outer_product
  )
  return dx, dkernel


def _outer_product(x: jax.Array, dy: jax.Array) -> jax.Array:
  rows = tuple(range(x.ndim - 1))
  return lax.dot_general(x, dy, ((rows, rows), ((), ())))


def _joined_outer_product(x: jax.Array, dy: jax.Array) -> jax.Array:
  return _outer_product(*(a.reshape(-1, a.shape[-1]) for a in (x, dy)))


_product.defvjp(
  lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_gradient
)


class LayerNorm(nnx.Module):
  """Layer norm over the last axis with PyTorch's arithmetic.

  Statistics are float32 and two-pass: the one-pass variance loses digits.
  Flax's multiplies the scale into the inverse deviation first, which XLA writes
  as an array of the size of x on CPUs, in both passes.
  """

  def __init__(self, dim: int, *, eps: float, dtype: DTypeLike, rngs: nnx.Rngs):
    ones, zeros = nnx.initializers.ones, nnx.initializers.zeros
    self.scale = nnx.Param(ones(rngs.params(), (dim,)))
    self.bias = nnx.Param(zeros(rngs.params(), (dim,)))
    self.eps, self.dtype = eps, dtype

  def __call__(self, x: Float[jax.Array, "*n c"]) -> Float[jax.Array, "*n c"]:
    """Returns x with mean 0 and variance 1, scaled and shifted."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    y -= y.mean(-1, keepdims=True)
    y *= lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + self.eps)
    return (y * self.scale[...] + self.bias[...]).astype(self.dtype)


def gelu(x: Float[jax.Array, "*s"]) -> Float[jax.Array, "*s"]:
  """The exact GELU, x Phi(x); `jax.nn.gelu` approximates by default."""

  # PyTorch's formula. That of jax.nn.gelu has erfc, to be exact in the last
  # digits of numbers close to zero, and takes twice as long on CPUs.
  def formula(x: jax.Array) -> jax.Array:
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (0.5 * y * (1 + lax.erf(y * 0.5**0.5))).astype(x.dtype)

  # The backward pass keeps x alone: the parts of the formula would take the
  # memory of three, and are quickly computed again.
  return jax.checkpoint(formula)(x)


class PatchEmbed(nnx.Module):
  """Cuts a clip into patches and projects them (ViT, Eq. 1).

  A convolution whose stride is its kernel, written as one matrix product.

  Args:
    size: frames, rows and columns of a patch.
    dim: channels of a token.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self,
    size: tuple[int, int, int],
    dim: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.size = size
    self.proj = linear(
      3 * math.prod(size), dim, init=torch_init, dtype=dtype, rngs=rngs
    )

  def __call__(
    self, video: Float[jax.Array, "b t h w 3"]
  ) -> Float[jax.Array, "b s y x c"]:
    """Returns the patch grid; what fills no patch is cut off."""
    s, p, q = self.size
    frames, rows, columns = (
      n // m * m for n, m in zip(video.shape[1:4], self.size, strict=True)
    )
    patches = rearrange(
      video[:, :frames, :rows, :columns],
      "b (t s) (y p) (x q) c -> b t y x (s p q c)",
      s=s,
      p=p,
      q=q,
    )
    return self.proj(patches)


class Mlp(nnx.Module):
  """Two linear layers around a GELU."""

  def __init__(
    self,
    dim: int,
    hidden: int,
    *,
    init: LinearInit,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.fc1 = linear(dim, hidden, init=init, dtype=dtype, rngs=rngs)
    self.fc2 = linear(hidden, dim, init=init, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[jax.Array, "*batch c"]
  ) -> Float[jax.Array, "*batch c"]:
    """Applies the layers to the last axis."""
    return self.fc2(gelu(self.fc1(x)))


def dropout(
  x: Float[jax.Array, "*s"],
  rate: float,
  *,
  train: bool,
  rngs: nnx.Rngs | None,
  shared_axes: int = 0,
) -> Float[jax.Array, "*s"]:
  """Zeroes entries with probability `rate` and scales the others up.

  Args:
    x: any float array.
    rate: probability of a zero; nothing is drawn when it is 0.
    train: False returns x.
    rngs: source of the "dropout" keys.
    shared_axes: trailing axes that share one draw. With 2 on tokens
      `(b, t, n, c)` this is drop path: whole frames of a residual branch,
      because the official code folds frames into the batch.

  Raises:
    ValueError: if keys are needed and `rngs` is None.
  """
  if not train or rate == 0:
    return x
  if rngs is None:
    raise ValueError(
      f"dropout of {rate} in training needs random keys; call the model with "
      "rngs=nnx.Rngs(dropout=key)"
    )
  kept_axes = x.ndim - shared_axes
  shape = x.shape[:kept_axes] + (1,) * shared_axes
  mask = jax.random.bernoulli(rngs.dropout(), 1 - rate, shape)
  return jnp.where(mask, x / (1 - rate), 0).astype(x.dtype)
