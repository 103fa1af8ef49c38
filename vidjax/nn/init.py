"""Initial values as the official PyTorch code draws them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Initializer = Callable[..., Any]
# From the fan-in of a linear layer to the initialisers of kernel and bias.
LinearInit = Callable[[int], tuple[Initializer, Initializer]]

zeros: Initializer = nnx.initializers.zeros_init()
# The official truncated normal cuts at +-2 absolute, a hundred deviations
# away: a plain normal.
normal_02: Initializer = nnx.initializers.normal(0.02)


def uniform_fan_in(fan_in: int) -> Initializer:
  """Uniform in +-1/sqrt(fan_in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype, out_sharding=None):
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def vit_init(fan_in: int) -> tuple[Initializer, Initializer]:
  """Normal weights of deviation 0.02 and zero biases (ViT)."""
  del fan_in
  return normal_02, zeros


def torch_init(fan_in: int) -> tuple[Initializer, Initializer]:
  """PyTorch's default of linear and convolution layers: uniform, both."""
  return uniform_fan_in(fan_in), uniform_fan_in(fan_in)


def zero_init(fan_in: int) -> tuple[Initializer, Initializer]:
  """A layer that starts as no-op on its residual stream."""
  del fan_in
  return zeros, zeros
