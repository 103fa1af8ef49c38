"""Random keys that cost nothing to count."""

import jax
from flax import nnx


class _Stream(nnx.RngStream):
  """Counts the keys that it gave in Python, not in an array."""

  def __init__(self, key: jax.Array | int, *, tag: str):
    super().__init__(key, tag=tag)
    self.given = 0

  def __call__(self) -> jax.Array:
    key = jax.random.fold_in(self.key[...], self.given)
    self.given += 1
    return key


def counted_rngs(**keys: jax.Array | int) -> nnx.Rngs:
  """Returns `nnx.Rngs(**keys)`, whose keys are the same, for traced code.

  Flax counts in an array. While a function is traced, every increment asks a
  tracer for its sharding, and jax answers with an error that describes all
  operations so far: a time that grows with the square of their number, half of
  what SIFA-Swin-B's train step took to trace.

  Args:
    **keys: a key or a seed for each stream; "default" stands for all others.
  """
  rngs = nnx.Rngs()
  for name, key in keys.items():
    setattr(rngs, name, _Stream(key, tag=name))
  return rngs
