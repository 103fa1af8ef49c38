import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.nn import tiny
from tests.nn.tiny import EPS, EVAL, GRID, SHAPE
from vidjax.nn.channel_shift import ChannelShift
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.mixing import Mixing
from vidjax.nn.patch_shift import PatchShift
from vidjax.nn.plugs import make_plugs
from vidjax.nn.space_time import JointAttention
from vidjax.nn.temporal import BlockShape, Temporal


@pytest.mark.parametrize(
  "options",
  [
    {"op": "mixing", "summary_tokens": True},
    {"op": "divided"},
    {"op": "patch_shift", "schedule": "all_patch"},
  ],
  ids=str,
)
def test_bfloat16_and_gradients(options):
  """Every block keeps bfloat16, and trains what it owns."""
  block = oracles.build(tiny.make_block, options, dtype=jnp.bfloat16)
  definition, params, stats = split(block)
  x = jnp.asarray(tiny.tokens(), jnp.bfloat16)

  def loss(params):
    y = merge(definition, params, stats)(x, GRID, **EVAL)
    return (y.astype(jnp.float32) ** 2).mean(), y

  gradients, y = oracles.jit(jax.grad(loss, has_aux=True))(params)
  assert y.dtype == jnp.bfloat16
  assert y.shape == x.shape
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_make_plugs():
  make = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
  options = {"op": "mixing", "blocks": (0, 2), "shift_div": 4}
  plugs = make_plugs(options, [SHAPE] * 4, **make)
  assert [type(plug) for plug in plugs] == [Mixing, Temporal, Mixing, Temporal]
  assert isinstance(plugs[2], Mixing)
  assert plugs[2].shift_div == 4
  assert options == {"op": "mixing", "blocks": (0, 2), "shift_div": 4}
  for blocks in ({}, {"blocks": None}):
    plugs = make_plugs({"op": "joint"} | blocks, [SHAPE] * 3, **make)
    assert [type(plug) for plug in plugs] == [JointAttention] * 3
  plugs = make_plugs({"op": "channel_shift", "blocks": []}, [SHAPE] * 2, **make)
  assert [type(plug) for plug in plugs] == [Temporal] * 2


def test_plugs_know_their_stage_and_place():
  blocks = [
    SHAPE._replace(stage=stage, place=place)
    for stage, depth in enumerate((3, 2))
    for place in range(depth)
  ]
  make = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
  plugs = make_plugs({"op": "patch_shift"}, blocks, **make)
  pair = [ChannelShift, PatchShift]
  assert [type(plug) for plug in plugs] == [*pair, ChannelShift, *pair]
  options = {"op": "patch_shift", "stages": (1,), "blocks": (0, 1, 3)}
  plugs = make_plugs(options, blocks, **make)
  assert [type(plug) for plug in plugs] == [Temporal] * 3 + [
    ChannelShift,
    Temporal,
  ]


def test_plugs_see_the_shape_of_their_own_block():
  wide = BlockShape(48, 4, norm_eps=EPS, init=torch_init)
  make = {"dtype": jnp.float32, "rngs": nnx.Rngs(0)}
  plugs = make_plugs({"op": "channel_shift"}, [SHAPE, wide], **make)
  folds = [plug.fold for plug in plugs if isinstance(plug, ChannelShift)]
  assert folds == [3, 6]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"op": "warp"}, r"temporal\.op is 'warp'; use one of 'none', 'mixing'"),
    (
      {"op": "mixing", "shift": 4},
      "temporal operation 'mixing': .*argument 'shift'",
    ),
    ({"op": "joint", "window": 1}, "temporal operation 'joint': .*'window'"),
    (
      {"op": "patch_shift", "block": 1},
      "temporal operation 'patch_shift': .*argument 'block'; its arguments are",
    ),
    (
      {"op": "mixing", "blocks": (0, 3, -1)},
      r"temporal\.blocks has \[3, -1\].*numbered 0 to 2",
    ),
  ],
)
def test_make_plugs_errors(options, message):
  with pytest.raises(ValueError, match=message):
    make_plugs(options, [SHAPE] * 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
