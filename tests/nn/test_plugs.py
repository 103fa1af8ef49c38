import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.nn.attention import Attention, Block, attend
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.plugs import (
  ChannelShift,
  DividedAttention,
  JointAttention,
  Mixing,
  TokenShift,
  make_plugs,
)
from vidjax.nn.temporal import BlockShape, Grid, Temporal

B, T, C, HEADS = 2, 4, 24, 4
EPS = 1e-6
SHAPE = BlockShape(C, HEADS, norm_eps=EPS, init=torch_init)
GRID = Grid(1, 2, 3)
N = 7
EVAL = {"train": False, "rngs": None}


@pytest.fixture(scope="module")
def attention():
  return oracles.build(Attention, C, HEADS, init=torch_init)


def tokens(seed=0):
  return oracles.normal(B, T, N, C, seed=seed)


MIXINGS = [
  {},
  {"mix": "k"},
  {"mix": "v"},
  {"mix": "x"},
  {"mix": "none"},
  {"mix": "kv", "shift_div": 4, "window": 2},
  {"mix": "x", "shift_div": 2, "window": 2, "boundary_only": True},
  {"mix": "kv", "shift_div": 4, "segment": 2},
  {"mix": "kv", "shift_div": 3, "split": "heads"},
  {"summary_tokens": True},
  {"mix": "v", "segment": 2, "summary_tokens": True},
  {"mix": "x", "summary_tokens": True},
]


def naive_mixing(
  attention, x, *, mix="kv", split="channels", summary_tokens=False, **options
):
  """X-ViT section 3, frame by frame."""
  defaults = {
    "shift_div": 8,
    "window": 1,
    "boundary_only": False,
    "segment": None,
    "heads": HEADS if split == "heads" else None,
  }
  options = defaults | options
  if mix == "x":
    x = oracles.mix(x, **options)
  q, k, v = oracles.project(attention, x)
  mixed = [
    oracles.mix(part, **options) if name in mix else part
    for name, part in (("k", k), ("v", v))
  ]
  segment = options["segment"] or T
  y = np.zeros(x.shape)
  for b in range(B):
    for t in range(T):
      keys, values = (list(part[b, t]) for part in mixed)
      for other in range(T):
        if summary_tokens and other // segment == t // segment:
          keys.append(sum(k[b, other, 1:]) / (N - 1))
          values.append(sum(v[b, other, 1:]) / (N - 1))
      y[b, t] = oracles.attend(q[b, t], keys, values, HEADS)
  return oracles.linear(attention.proj, y)


def test_mixing_equals_the_loop(attention):
  plugs = [Mixing(SHAPE, **options) for options in MIXINGS]
  x = tokens()
  ours = oracles.jit(
    lambda x: [attention(x, plug, GRID, **EVAL) for plug in plugs]
  )(x)
  for options, y in zip(MIXINGS, ours, strict=True):
    np.testing.assert_allclose(
      y, naive_mixing(attention, x, **options), atol=1e-5, err_msg=str(options)
    )


def test_a_head_whose_frame_does_not_exist_gives_zero():
  # f = 24 / 4 channels are one head: heads 0 and 1 see t + 1 and t - 1 only.
  plug = Mixing(SHAPE, shift_div=4)

  @oracles.jit
  def run(q, k, v):
    return attend(*plug.qkv(q, k, v, GRID), heads=HEADS)

  q, k, v = (tokens(seed) for seed in range(3))
  y = np.asarray(run(q, k, v)).reshape(B, T, N, HEADS, -1)
  assert (y[:, -1, :, 0] == 0).all()
  assert (y[:, 0, :, 1] == 0).all()
  assert (y[:, :-1, :, 0] != 0).all()
  assert (y[:, 1:, :, 1] != 0).all()
  for head, source in ((0, 2), (1, 0), (2, 1), (3, 1)):  # of frame 1
    channels = slice(6 * head, 6 * head + 6)
    want = oracles.attend_frames(
      q[:, 1:2, :, channels],
      k[:, source : source + 1, :, channels],
      v[:, source : source + 1, :, channels],
      1,
    )
    np.testing.assert_allclose(y[:, 1, :, head], want[:, 0], atol=1e-6)


def test_mixing_leaves_queries_and_its_inputs_alone():
  q, k, v = (jnp.asarray(tokens(seed)) for seed in range(3))
  mixed = Mixing(SHAPE, mix="v").qkv(q, k, v, GRID)
  assert mixed[0] is q
  assert mixed[1] is k
  assert mixed[2] is not v


def test_summaries_add_one_key_for_each_frame():
  x = jax.ShapeDtypeStruct((B, T, N, C), jnp.float32)
  for segment in (None, 2):
    plug = Mixing(SHAPE, summary_tokens=True, segment=segment)
    joined = jax.eval_shape(lambda x, plug=plug: plug.qkv(x, x, x, GRID), x)
    keys = (B, T, N + (segment or T), C)
    assert [y.shape for y in joined] == [x.shape, keys, keys]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"mix": "q"}, "mix is 'q'; use one of 'kv', 'k', 'v', 'x', 'none'"),
    ({"split": "both"}, "split is 'both'; use one of 'channels', 'heads'"),
    ({"window": -2}, "mixing window is -2"),
  ],
)
def test_mixing_errors(options, message):
  with pytest.raises(ValueError, match=message):
    Mixing(SHAPE, **options)


@pytest.mark.parametrize("fold_div", [3, 5, 8])
def test_channel_shift(attention, fold_div):
  x = tokens()
  shifted = oracles.shift(x, (1, -1), C // fold_div)
  y = oracles.attend_frames(*oracles.project(attention, shifted), HEADS)
  plug = ChannelShift(SHAPE, fold_div=fold_div)
  np.testing.assert_allclose(
    oracles.call(attention, x, plug, GRID, **EVAL),
    oracles.linear(attention.proj, y),
    atol=1e-5,
  )


def test_joint_attention(attention):
  x = tokens()
  clip = oracles.project(attention, x.reshape(B, 1, T * N, C))
  y = oracles.linear(attention.proj, oracles.attend_frames(*clip, HEADS))
  np.testing.assert_allclose(
    oracles.call(attention, x, JointAttention(), GRID, **EVAL),
    y.reshape(B, T, N, C),
    atol=1e-5,
  )


def make_block(options, *, dtype, rngs):
  random = {"dtype": dtype, "rngs": rngs}
  (plug,) = make_plugs(options, [SHAPE], **random)
  return Block(SHAPE, plug, **random)


def attention_unit(module, norm, x):
  """attention(norm(x)) inside each frame."""
  normed = oracles.layer_norm(norm, x, EPS)
  y = oracles.attend_frames(*oracles.project(module, normed), HEADS)
  return oracles.linear(module.proj, y)


def mlp_unit(block, x):
  return oracles.mlp(block.mlp, oracles.layer_norm(block.norm2, x, EPS))


@pytest.mark.parametrize("fold_div", [4, 5])
def test_token_shift_block(fold_div):
  block = oracles.build(make_block, {"op": "token_shift", "fold_div": fold_div})
  x = tokens()

  def shift(x):
    y = np.array(x, np.float64)
    f = C // fold_div
    for t in range(T):
      y[:, t, 0, :f] = x[:, t + 1, 0, :f] if t + 1 < T else 0
      y[:, t, 0, f : 2 * f] = x[:, t - 1, 0, f : 2 * f] if t else 0
    return y

  # Zhang et al. 2021: the skip paths carry the shifted token.
  want = shift(x)
  want = want + attention_unit(block.attention, block.norm1, want)
  want = shift(want)
  want = want + mlp_unit(block, want)
  np.testing.assert_allclose(
    oracles.call(block, x, GRID, **EVAL), want, atol=3e-5
  )


@pytest.mark.parametrize("classes", [0, 2])
def test_token_shift_needs_one_class_token(classes):
  with pytest.raises(ValueError, match=f"but this backbone has {classes}"):
    TokenShift(SHAPE).before(
      jnp.zeros((B, T, N, C)), Grid(classes, 1, 7), **EVAL
    )


def test_divided_attention_block():
  block = oracles.build(make_block, {"op": "divided"})
  plug = block.temporal
  x = tokens()
  x[:, :, 0] = x[:, :1, 0]  # one class token, the same in every frame
  want = x.astype(np.float64)
  for n in range(1, N):  # each patch attends to its own place in time
    track = x[:, None, :, n]
    update = attention_unit(plug.attention, plug.norm, track)[:, 0]
    want[:, :, n] += oracles.linear(plug.fc, update)
  update = attention_unit(block.attention, block.norm1, want)
  update[:, :, 0] = update[:, :, 0].mean(axis=1, keepdims=True)
  want = want + update
  want = want + mlp_unit(block, want)
  got = oracles.call(block, x, GRID, **EVAL)
  np.testing.assert_allclose(got, want, atol=3e-5)
  np.testing.assert_allclose(got[:, 1:, 0], got[:, :-1, 0], atol=1e-6)


def test_divided_attention_starts_as_plain_attention():
  before = oracles.jit(
    lambda x: DividedAttention(
      SHAPE, dtype=jnp.float32, rngs=nnx.Rngs(0)
    ).before(x, GRID, **EVAL)
  )
  np.testing.assert_array_equal(before(tokens()), tokens())


@pytest.mark.parametrize(
  "options",
  [{"op": "mixing", "summary_tokens": True}, {"op": "divided"}],
  ids=str,
)
def test_bfloat16_and_gradients(options):
  """Every block keeps bfloat16, and trains what it owns."""
  block = oracles.build(make_block, options, dtype=jnp.bfloat16)
  definition, params, stats = split(block)
  x = jnp.asarray(tokens(), jnp.bfloat16)

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
      {"op": "mixing", "blocks": (0, 3, -1)},
      r"temporal\.blocks has \[3, -1\].*numbered 0 to 2",
    ),
  ],
)
def test_make_plugs_errors(options, message):
  with pytest.raises(ValueError, match=message):
    make_plugs(options, [SHAPE] * 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
