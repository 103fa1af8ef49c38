"""Convolutions of single frames, with PyTorch's explicit padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import DTypeLike, Float

from vidjax.nn.init import LinearInit, zeros
from vidjax.nn.layers import linear
from vidjax.ops.halo import over_frames

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def kaiming_init(fan_out: int) -> LinearInit:
  """Normal weights that keep the gradients' size through a ReLU; zero biases.

  He et al. 2015, Eq. 14. `fan_out` is the output channels times the kernel's
  area, whatever the groups (PyTorch's count).
  """
  normal = nnx.initializers.normal(math.sqrt(2 / fan_out))
  return lambda fan_in: (normal, zeros)


def pointwise(
  dim: int, out: int, *, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
  """A 1 x 1 convolution without bias: a linear layer on the last axis."""
  return linear(
    dim, out, init=kaiming_init(out), bias=False, dtype=dtype, rngs=rngs
  )


class PatchConv(nnx.Module):
  """A convolution whose stride is its kernel, with bias: a matrix product.

  Args:
    dim: input channels c.
    out: output channels.
    side: rows and columns of the kernel.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self, dim: int, out: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.side = side
    self.proj = linear(
      dim * side**2,
      out,
      init=kaiming_init(out * side**2),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[jax.Array, "b t h w c"]
  ) -> Float[jax.Array, "b t y x c2"]:
    """Rows and columns that fill no patch are cut off."""
    p = self.side
    height, width = (n // p * p for n in x.shape[2:4])
    patches = rearrange(
      x[:, :, :height, :width],
      "b t (y p) (x q) c -> b t y x (p q c)",
      p=p,
      q=p,
    )
    return self.proj(patches)


class Conv(nnx.Module):
  """A convolution of every frame, without bias.

  Args:
    dim: input channels c.
    out: output channels.
    side: rows and columns of the kernel.
    stride: of rows and columns.
    padding: zeros on each side of rows and columns.
    groups: parts of the channels that do not mix; output channels in the same
      order.
    dtype: compute dtype.
    rngs: keys of the initial values.

  Raises:
    ValueError: if the channels do not divide into the groups.
  """

  def __init__(
    self,
    dim: int,
    out: int,
    side: int,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    if dim % groups or out % groups:
      raise ValueError(
        f"a convolution from {dim} to {out} channels does not divide into "
        f"{groups} groups; change one of them"
      )
    self.stride = stride
    self.padding = padding
    self.groups = groups
    self.dtype = dtype
    kernel_init, _ = kaiming_init(out * side**2)(dim)
    shape = (side, side, dim // groups, out)
    self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))

  def __call__(
    self, x: Float[jax.Array, "b t h w c"]
  ) -> Float[jax.Array, "b t y x c2"]:
    """Convolves every frame."""
    return over_frames(self._of_shard, x)

  def _of_shard(self, x: jax.Array) -> jax.Array:
    frames = rearrange(x, "b t h w c -> (b t) h w c").astype(self.dtype)
    kernel = self.kernel[...].astype(self.dtype)
    if self.groups == 1:
      y = self._convolve(frames, kernel)
    else:
      # XLA's grouped convolution on CPU is 6 times slower than convolutions
      # of the single groups, its gradient 40 times.
      y = lax.platform_dependent(
        frames, kernel, cpu=self._group_by_group, default=self._grouped
      )
    return y.reshape(*x.shape[:2], *y.shape[1:])

  def _grouped(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return self._convolve(x, kernel, self.groups)

  def _group_by_group(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    inputs = jnp.split(x, self.groups, axis=-1)
    kernels = jnp.split(kernel, self.groups, axis=-1)
    return jnp.concatenate(
      [
        self._convolve(part, own)
        for part, own in zip(inputs, kernels, strict=True)
      ],
      axis=-1,
    )

  def _convolve(
    self, x: jax.Array, kernel: jax.Array, groups: int = 1
  ) -> jax.Array:
    return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(self.stride, self.stride),
      padding=[(self.padding, self.padding)] * 2,
      dimension_numbers=_LAYOUT,
      feature_group_count=groups,
    )


class NarrowConv(Conv):
  """A convolution to few channels, which keeps rows and columns.

  All products come first, as one of matrices, and their sums are moved: they
  have fewer channels than the input has. On a CPU its gradient is six to ten
  times as fast as that of XLA's convolution.

  Args:
    dim: input channels c.
    out: output channels.
    side: rows and columns of the kernel, an odd number.
    dtype: compute dtype.
    rngs: keys of the initial values.
  """

  def __init__(
    self, dim: int, out: int, side: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    super().__init__(dim, out, side, padding=side // 2, dtype=dtype, rngs=rngs)

  def __call__(
    self, x: Float[jax.Array, "b t h w c"]
  ) -> Float[jax.Array, "b t h w c2"]:
    """Convolves every frame; sums are float32 at least."""
    h, w = x.shape[2:4]
    products = jnp.einsum(
      "bthwc,ijco->bthwijo",
      x.astype(self.dtype),
      self.kernel[...].astype(self.dtype),
      preferred_element_type=jnp.promote_types(self.dtype, jnp.float32),
    )
    edge = (self.padding, self.padding)
    edges = [(0, 0), (0, 0), edge, edge, *[(0, 0)] * 3]
    padded = jnp.pad(products, edges)
    parts = [
      padded[:, :, i : i + h, j : j + w, i, j]
      for i, j in np.ndindex(*self.kernel.shape[:2])
    ]
    return functools.reduce(jnp.add, parts).astype(self.dtype)
