"""Initial values as the official PyTorch code draws them."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Initializer = Callable[..., Any]
# From the fan-in of a linear layer to the initialisers of kernel and bias.
LinearInit = Callable[[int], tuple[Initializer, Initializer]]

zeros: Initializer = nnx.initializers.zeros_init()


def uniform_fan_in(fan_in: int) -> Initializer:
  """Uniform in +-1/sqrt(fan_in)."""
  bound = fan_in**-0.5

  def init(key, shape, dtype, out_sharding=None):
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def vit_init(std: float) -> LinearInit:
  """Normal weights of a deviation and zero biases (ViT: 0.02).

  The official truncated normal cuts at +-2 absolute, so far away that it is a
  plain normal.
  """
  return lambda fan_in: (nnx.initializers.normal(std), zeros)


def torch_init(fan_in: int) -> tuple[Initializer, Initializer]:
  """PyTorch's default of linear and convolution layers: uniform, both."""
  return uniform_fan_in(fan_in), uniform_fan_in(fan_in)


def zero_init(fan_in: int) -> tuple[Initializer, Initializer]:
  """A layer that starts as no-op on its residual stream."""
  del fan_in
  return zeros, zeros
