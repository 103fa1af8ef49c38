"""Models with seeded weights, and state dicts of other code made of them."""

import jax
import numpy as np
from flax import nnx

from vidjax.nn.functional import merge, split
from vidjax.weights.keys import flat, like

_PERIOD = 99_991  # a prime: no two rows of a matrix agree


def abstract(make, *arguments, **options):
  """A model without weights."""
  return nnx.eval_shape(lambda: make(*arguments, **options, rngs=nnx.Rngs(0)))


def zeros(model):
  """The model with zeros that take no memory: only layouts matter."""
  definition, *trees = split(model)
  params, stats = jax.tree.map(
    lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), trees
  )
  return merge(definition, params, stats)


def filled(model, seed=0):
  """The model with every array random, statistics and zero weights too.

  Arrays are views of one long row of repeated random numbers, which is fast.
  """
  definition, *trees = split(model)
  rng = np.random.default_rng(seed)
  pool = 0.02 * rng.standard_normal(_PERIOD, np.float32)
  longest = max(leaf.size for leaf in jax.tree.leaves(trees))
  row = np.resize(pool, longest + _PERIOD)

  def draw(path, leaf):
    start = int(rng.integers(_PERIOD))
    value = row[start : start + leaf.size].reshape(leaf.shape)
    positive = path.endswith(("/scale", "/var"))
    return (1 + np.abs(value) if positive else value).astype(
      leaf.dtype, copy=False
    )

  drawn = [
    {path: draw(path, leaf) for path, leaf in flat(tree).items()}
    for tree in trees
  ]
  params, stats = like(drawn[0] | drawn[1], *trees)
  return merge(definition, params, stats)


def assert_same(converted, model):
  """The converted trees are the model's, to the bit."""
  for got, want in zip(
    (converted.params, converted.stats), split(model)[1:], strict=True
  ):
    got, want = flat(got), flat(want)
    assert got.keys() == want.keys()
    for path, value in want.items():
      assert got[path].dtype == value.dtype, path
      np.testing.assert_array_equal(got[path], value, err_msg=path)
