"""Recomputing the activations of modules that keep running statistics."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Float

from vidjax.nn.functional import merge, split

Maps = Float[jax.Array, "b t h w c"]


def run_block(
  block: Callable[..., Maps], x: Maps, *, recompute: bool, **options: Any
) -> Float[jax.Array, "b t y x c2"]:
  """Returns `block(x, **options)`, with the block's statistics changed by it.

  Args:
    block: a module with batch norms.
    x: its input.
    recompute: whether the backward pass computes the block's activations again
      instead of keeping them.
    **options: further arguments, no arrays.
  """
  if not recompute:
    return block(x, **options)
  definition, params, running = split(block)  # pyright: ignore[reportArgumentType]

  # Running statistics leave as a result: a change inside of what is recomputed
  # would not be seen outside.
  @jax.checkpoint
  def apply(params, x):
    copy = merge(definition, params, running)
    return copy(x, **options), split(copy)[2]

  y, stats = apply(params, x)
  nnx.update(block, stats)
  return y
