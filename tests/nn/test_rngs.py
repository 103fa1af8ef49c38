import jax
import numpy as np
import pytest
from flax import nnx

from vidjax.nn.layers import dropout
from vidjax.nn.rngs import counted_rngs


def draws(rngs):
  """Five keys of three streams, of which one is the default."""
  streams = (rngs.params, rngs.dropout, rngs.params, rngs.other, rngs.dropout)
  return [jax.random.key_data(stream()) for stream in streams]


@pytest.mark.parametrize("seed", [0, 3])
def test_keys_are_those_of_flax(seed):
  keys = {"default": jax.random.key(seed), "dropout": seed + 1}
  expected = draws(nnx.Rngs(**keys))
  np.testing.assert_array_equal(draws(counted_rngs(**keys)), expected)
  traced = jax.jit(lambda: draws(counted_rngs(**keys)))()
  np.testing.assert_array_equal(traced, expected)
  assert len({tuple(key.tolist()) for key in expected}) == len(expected)


def test_no_key_is_given_twice_to_dropout():
  rngs = counted_rngs(dropout=0)
  x = jax.numpy.ones(64)
  first, second = (dropout(x, 0.5, train=True, rngs=rngs) for _ in range(2))
  assert np.any(first != second)


def test_a_stream_that_is_not_there():
  with pytest.raises(AttributeError, match="params"):
    counted_rngs(dropout=0).params()
