import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.nn import tiny
from vidjax.nn.functional import merge, split
from vidjax.nn.intermediates import collecting, hand_out
from vidjax.nn.temporal import Temporal


class Leaf(nnx.Module):
  def __init__(self):
    self.scale = nnx.Param(jnp.ones(()))

  def __call__(self, x):
    y = x * self.scale[...]
    hand_out(self, double=lambda: 2 * y, wrong=lambda: 1 / 0)
    return y


class Tree(nnx.Module):
  def __init__(self):
    self.leaves = nnx.List([Leaf(), Leaf()])

  def __call__(self, x):
    for leaf in self.leaves:
      x = leaf(x) + 1
    return x


def test_only_what_is_asked_for_is_computed():
  tree = Tree()
  with collecting(tree, ["leaves.1.double"]) as collector:
    assert tree(jnp.array(3.0)) == 5
  assert collector.offered == [
    "leaves.0.double",
    "leaves.0.wrong",
    "leaves.1.double",
    "leaves.1.wrong",
  ]
  assert {k: float(v) for k, v in collector.found.items()} == {
    "leaves.1.double": 8.0
  }


def test_nothing_happens_while_nobody_collects():
  tree = Tree()
  definition = split(tree)[0]
  assert tree(jnp.array(3.0)) == 5  # `wrong` would have raised
  with pytest.raises(ZeroDivisionError), collecting(tree, ["leaves.0.wrong"]):
    tree(jnp.array(3.0))
  assert tree(jnp.array(3.0)) == 5
  assert split(Tree())[0] == definition


def test_modules_that_are_rebuilt_inside_of_a_function():
  tree = Tree()
  with collecting(tree, ["leaves.0.double"]) as collector:
    merge(*split(tree))(jnp.array(3.0))
  assert float(collector.found["leaves.0.double"]) == 6


PLUGS = ("none", "mixing", "joint", "leap", "channel_shift")


@pytest.mark.parametrize("op", PLUGS)
def test_weights_times_values_are_what_attention_returns(op):
  plug = {
    "none": {"op": "none"},
    "mixing": {"op": "mixing"},
    "joint": {"op": "joint"},
    "leap": {"op": "leap", "levels": (2,)},
    "channel_shift": {"op": "channel_shift"},
  }[op]
  block = oracles.build(tiny.make_block, plug)
  x = jnp.asarray(tiny.tokens())
  parts = ("q", "k", "v", "weights", "output")
  names = [f"attention.{part}" for part in parts]
  with collecting(block, names) as collector:
    y = block.attention(x, block.temporal, tiny.GRID, **tiny.EVAL)
  q, k, v, weights, output = (collector.found[name] for name in names)
  assert weights.dtype == jnp.float32
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  split_heads = [
    x.reshape(*x.shape[:3], tiny.HEADS, -1).swapaxes(2, 3) for x in (q, k, v)
  ]
  q, k, v = (np.asarray(x, np.float64) for x in split_heads)
  logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
  exponentials = np.exp(logits)
  np.testing.assert_allclose(
    weights, exponentials / exponentials.sum(-1, keepdims=True), atol=1e-5
  )
  joined = (weights @ v).swapaxes(2, 3).reshape(output.shape)
  np.testing.assert_allclose(joined, output, atol=1e-5)
  back = block.temporal.output(output, tiny.GRID, tiny.T)
  np.testing.assert_allclose(block.attention.proj(back), y, atol=1e-5)


def test_weights_with_dropout_and_gradients_stay_what_they_were():
  """Taking values does not change the result or its gradient."""
  module = tiny.attention()
  definition, params, stats = split(module)
  x = jnp.asarray(tiny.tokens())

  def loss(params, collect):
    copy = merge(definition, params, stats)
    if not collect:
      return copy(x, Temporal(), tiny.GRID, **tiny.EVAL).sum()
    with collecting(copy, [".weights"]) as collector:
      y = copy(x, Temporal(), tiny.GRID, **tiny.EVAL).sum()
    assert len(collector.found) == 1
    return y

  plain, collected = (
    jax.value_and_grad(loss)(params, collect) for collect in (False, True)
  )
  jax.tree.map(np.testing.assert_array_equal, plain, collected)
