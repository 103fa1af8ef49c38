import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from tests import oracles
from vidjax.nn.attention import Block
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.temporal import BlockShape, Grid, Temporal


class Stack(nnx.Module):
  """Parameters in a list, and a running statistic."""

  def __init__(self, **make):
    shape = BlockShape(6, 2, 1e-6, torch_init)
    # Eleven entries: "10" sorts ahead of "2" among strings.
    self.blocks = nnx.List(
      Block(shape, Temporal(), mlp_ratio=1.0, **make) for _ in range(11)
    )
    self.norm = nnx.BatchNorm(6, rngs=make["rngs"])


@functools.cache
def stack():
  return oracles.build(Stack)


def paths(tree):
  return set(traverse_util.flatten_dict(tree, sep="/"))


def test_trees_are_plain_dictionaries_with_string_keys():
  _, params, stats = split(stack())
  layers = {
    *(f"norm{i}/{leaf}" for i in (1, 2) for leaf in ("scale", "bias")),
    *(
      f"{layer}/{leaf}"
      for layer in ("attention/qkv", "attention/proj", "mlp/fc1", "mlp/fc2")
      for leaf in ("kernel", "bias")
    ),
  }
  want = {f"blocks/{i}/{layer}" for i in range(11) for layer in layers}
  assert paths(params) == want | {"norm/scale", "norm/bias"}
  assert paths(stats) == {"norm/mean", "norm/var"}
  assert type(params) is dict
  assert type(params["blocks"]["10"]["mlp"]) is dict
  assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params))


def test_round_trip_is_exact():
  module = stack()
  definition, params, stats = split(module)
  again = split(merge(definition, params, stats))
  assert again[0] == definition
  jax.tree.map(np.testing.assert_array_equal, again[1:], (params, stats))


def test_list_entries_keep_their_place():
  definition, params, stats = split(stack())
  for i in range(11):
    params["blocks"][str(i)]["norm1"]["scale"] = jnp.full(6, float(i))
  module = merge(definition, params, stats)
  got = [float(block.norm1.scale[...][0]) for block in module.blocks]
  assert got == list(range(11))


def test_merge_leaves_its_arguments_alone():
  definition, params, stats = split(stack())
  kernel = params["blocks"]["0"]["mlp"]["fc1"]["kernel"]
  module = merge(definition, params, stats)
  module.blocks[0].mlp.fc1.kernel[...] = jnp.zeros_like(kernel)
  assert params["blocks"]["0"]["mlp"]["fc1"]["kernel"] is kernel
  assert np.abs(kernel).max() > 0


def test_merge_inside_transformations():
  definition, params, stats = split(stack())
  x = jnp.asarray(oracles.normal(1, 2, 5, 6))

  def loss(params):
    module = merge(definition, params, stats)
    y = module.blocks[10](x, Grid(1, 2, 2), train=False, rngs=None)
    return (y**2).mean()

  gradients = oracles.jit(jax.grad(loss))(params)
  assert paths(gradients) == paths(params)
  largest = jax.tree.map(lambda g: np.abs(g).max(), gradients)
  # Attention is blind to the bias of its keys, hence not all of qkv's bias.
  assert min(jax.tree.leaves(largest["blocks"]["10"])) > 0
  assert max(jax.tree.leaves(largest["blocks"]["2"])) == 0


def test_abstract_modules_split_too():
  _, params, _ = split(
    nnx.eval_shape(lambda: Stack(**oracles.DEFAULTS, rngs=nnx.Rngs(0)))
  )
  leaf = params["blocks"]["3"]["mlp"]["fc1"]["kernel"]
  assert isinstance(leaf, jax.ShapeDtypeStruct)
  assert leaf.shape == (6, 6)
