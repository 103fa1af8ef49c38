import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx

from tests import oracles
from tests.nn import naive_windows
from tests.nn.naive_windows import EPS, Recipe
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.plugs import make_plugs
from vidjax.nn.temporal import BlockShape, Grid
from vidjax.nn.windows import RelativeBias, WindowBlock
from vidjax.ops.patch_shift import PATTERNS
from vidjax.ops.position_bias import Places

C, HEADS = 16, 2
EVAL = {"train": False, "rngs": None}


def make_block(
  temporal,
  *,
  window=(1, 3, 3),
  place=1,
  bias_frames,
  key_frame="first",
  dtype,
  rngs,
  **options,
):
  shape = BlockShape(C, HEADS, EPS, torch_init, place=place)
  (plug,) = make_plugs(temporal, [shape], dtype=dtype, rngs=rngs)
  frames = window[0] if window[0] > 1 else bias_frames
  bias = RelativeBias(
    (frames, *window[1:]), HEADS, key_frame=key_frame, std=0.02, rngs=rngs
  )
  options |= {"window": window, "bias": bias, "dtype": dtype, "rngs": rngs}
  return WindowBlock(
    shape, plug, mlp_ratio=2.0, drop_whole_clips=True, **options
  )


def build(temporal, **options):
  """A block with random weights; equal options give the same one."""
  return _build(json.dumps(temporal), json.dumps(options))


@functools.cache
def _build(temporal, options):
  options = json.loads(options)
  if "window" in options:
    options["window"] = tuple(options["window"])
  return oracles.build(make_block, json.loads(temporal), **options)


def run(block, video, **random):
  tokens = jnp.asarray(rearrange(video, "b t h w c -> b t (h w) c"))
  grid = Grid(0, *video.shape[2:4])
  y = oracles.call(block, tokens, grid, **EVAL | random)
  return rearrange(np.asarray(y), "b t (h w) c -> b t h w c", h=video.shape[2])


def clip(frames, height, width, batch=2, seed=0):
  return oracles.normal(batch, frames, height, width, C, seed=seed)


NONE = {"op": "none"}
PATCH = {"op": "patch_shift", "schedule": "all_patch"}
CHANNEL = {"op": "patch_shift", "schedule": "channel_only"}
PLAIN = Recipe(HEADS, (1, 3, 3), shifted=True)
MOSAIC = dataclasses.replace(PLAIN, pattern=PATTERNS["c9"])


def but(recipe, **changes):
  return dataclasses.replace(recipe, **changes)


# Map, plug, options of the block, and what the equations are told.
BLOCKS = {
  "plain": ((4, 6, 6), NONE, {"place": 0}, but(PLAIN, shifted=False)),
  "odd map": ((3, 5, 7), NONE, {"place": 0}, but(PLAIN, shifted=False)),
  "shifted": ((3, 6, 9), NONE, {}, PLAIN),
  "shifted, odd map": ((3, 5, 7), NONE, {}, PLAIN),
  "shifted along one axis": ((2, 3, 7), NONE, {}, PLAIN),
  "one window": ((2, 3, 3), NONE, {}, PLAIN),
  "even window": (
    (2, 5, 6),
    NONE,
    {"window": (1, 4, 2), "place": 3},
    but(PLAIN, window=(1, 4, 2)),
  ),
  "same key frame": (
    (3, 5, 4),
    NONE,
    {"key_frame": "same"},
    but(PLAIN, key_frame="same"),
  ),
  "patches": ((5, 6, 6), PATCH, {"place": 0}, but(MOSAIC, shifted=False)),
  "patches, shifted, odd map": ((5, 5, 7), PATCH, {}, MOSAIC),
  "patches of two frames": ((2, 4, 4), PATCH, {}, MOSAIC),
  "patches, same key frame": (
    (6, 5, 4),
    PATCH,
    {"key_frame": "same"},
    but(MOSAIC, key_frame="same"),
  ),
  "patches, no way back": (
    (4, 5, 4),
    PATCH | {"shift_back": False},
    {},
    but(MOSAIC, shift_back=False),
  ),
  "patches, plain bias": (
    (4, 5, 4),
    PATCH | {"shifted_bias": False, "pattern": "b4"},
    {},
    but(MOSAIC, shifted_bias=False, pattern=PATTERNS["b4"]),
  ),
  "patches, plain bias, same key frame": (
    (4, 5, 4),
    PATCH | {"shifted_bias": False, "pattern": ((0, 2, -1),)},
    {"key_frame": "same"},
    but(MOSAIC, shifted_bias=False, pattern=((0, 2, -1),), key_frame="same"),
  ),
  "patches, bias of one frame": (
    (5, 5, 4),
    PATCH,
    {"bias_frames": 1},
    MOSAIC,
  ),
  "channels, odd map": ((4, 5, 7), CHANNEL, {}, but(PLAIN, channels="keep")),
  "channels, zero border": (
    (3, 5, 4),
    CHANNEL | {"border": "zero"},
    {"key_frame": "same", "place": 0},
    but(PLAIN, channels="zero", key_frame="same", shifted=False),
  ),
  "channels of one frame": (
    (1, 4, 5),
    CHANNEL,
    {},
    but(PLAIN, channels="keep"),
  ),
  "joint": (
    (4, 6, 3),
    NONE,
    {"window": (2, 3, 3), "place": 0},
    but(PLAIN, window=(2, 3, 3), shifted=False),
  ),
  "joint, shifted": (
    (4, 5, 4),
    NONE,
    {"window": (2, 3, 3)},
    but(PLAIN, window=(2, 3, 3)),
  ),
  "joint, frames that fill no window": (
    (5, 4, 3),
    NONE,
    {"window": (2, 3, 3), "key_frame": "same"},
    but(PLAIN, window=(2, 3, 3), key_frame="same"),
  ),
  "joint, as many frames as a window": (
    (3, 4, 4),
    NONE,
    {"window": (3, 2, 2)},
    but(PLAIN, window=(3, 2, 2)),
  ),
  "joint, fewer frames than a window": (
    (2, 4, 4),
    NONE,
    {"window": (4, 3, 3)},
    but(PLAIN, window=(4, 3, 3)),
  ),
  "joint, one frame": (
    (1, 4, 3),
    NONE,
    {"window": (2, 3, 3)},
    but(PLAIN, window=(2, 3, 3)),
  ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_the_loops(name):
  size, temporal, options, recipe = BLOCKS[name]
  block = build(temporal, **{"bias_frames": size[0]} | options)
  video = clip(*size)
  want = naive_windows.block(block, video, recipe)
  assert np.abs(want - video).max() > 0.5
  np.testing.assert_allclose(run(block, video), want, atol=5e-5)


def test_no_qkv_bias():
  block = build(PATCH, bias_frames=3, qkv_bias=False)
  assert "bias" not in split(block)[1]["attention"]["qkv"]
  video = clip(3, 5, 4)
  want = naive_windows.block(block, video, MOSAIC)
  np.testing.assert_allclose(run(block, video), want, atol=5e-5)


def attended(block, video):
  """What attention adds to (b, t, h, w, c)."""
  grid = Grid(0, *video.shape[2:4])

  @oracles.jit
  def add(tokens):
    return block.attend(tokens, grid, **EVAL)

  tokens = rearrange(video, "b t h w c -> b t (h w) c")
  return rearrange(
    np.asarray(add(tokens)), "b t (h w) c -> b t h w c", h=grid.height
  )


def test_windows_keep_apart():
  """A token changes its own window only; the shifted ones are elsewhere."""
  video = clip(2, 6, 6, batch=1)
  changed = video.copy()
  changed[0, 0, 2, 2] += 1
  for place, reached in ((0, slice(0, 3)), (1, slice(1, 4))):
    block = build(NONE, bias_frames=2, place=place)
    difference = attended(block, changed) - attended(block, video)
    differs = (np.abs(difference) > 1e-6).any(axis=-1)[0]
    want = np.zeros((2, 6, 6), bool)
    want[0, reached, reached] = True
    np.testing.assert_array_equal(differs, want)


# What a frame's features depend on if time is nothing but what the plug does.
TIMELESS = {"bias_frames": 1}
SAME = {"bias_frames": 6, "key_frame": "same"}


@pytest.mark.parametrize(
  ("temporal", "options"),
  [(NONE, SAME), (NONE, TIMELESS), (PATCH | {"pattern": ((6,),)}, TIMELESS)],
  ids=str,
)
def test_frames_that_keep_apart_permute_with_their_features(temporal, options):
  block = build(temporal, **options)
  video = clip(6, 4, 5)
  order = [2, 5, 0, 4, 1, 3]
  np.testing.assert_allclose(
    run(block, video[:, order]), run(block, video)[:, order], atol=1e-5
  )


@pytest.mark.parametrize(
  ("temporal", "options"),
  [(PATCH, TIMELESS), (PATCH | {"shifted_bias": False}, SAME)],
  ids=str,
)
def test_patch_shift_knows_no_first_frame(temporal, options):
  block = build(temporal, **options)
  video = clip(6, 4, 5)
  run_once = run(block, video)
  for start in (1, 4):
    np.testing.assert_allclose(
      run(block, np.roll(video, start, axis=1)),
      np.roll(run_once, start, axis=1),
      atol=1e-5,
    )
  order = [2, 5, 0, 4, 1, 3]  # but it knows the order
  change = run(block, video[:, order]) - run_once[:, order]
  assert np.abs(change).max() > 1e-2


def test_frames_that_no_offset_joins_may_be_moved_on_their_own():
  """All offsets even: odd frames stay, even ones go round among themselves."""
  even = tuple(tuple(2 * s for s in row) for row in PATTERNS["c9"])
  block = build(PATCH | {"pattern": even}, **TIMELESS)
  video = clip(6, 4, 5)
  order = [2, 1, 4, 3, 0, 5]
  np.testing.assert_allclose(
    run(block, video[:, order]), run(block, video)[:, order], atol=1e-5
  )


@pytest.mark.parametrize(
  ("temporal", "options"),
  [
    (NONE, {"bias_frames": 6}),  # a table of its own for each frame
    (PATCH, {"bias_frames": 6}),
    (PATCH, SAME),  # where the clip closes, frames are far apart
    (CHANNEL, SAME),  # the first frame has no past
  ],
  ids=str,
)
def test_what_knows_the_first_frame(temporal, options):
  block = build(temporal, **options)
  video = clip(6, 4, 5)
  change = run(block, np.roll(video, 1, axis=1)) - np.roll(
    run(block, video), 1, axis=1
  )
  assert np.abs(change).max() > 1e-2


def test_every_frame_mixes_as_the_pattern_says():
  block = build(PATCH, **TIMELESS | {"place": 0})
  video = clip(12, 3, 3, batch=1)
  changed = video.copy()
  changed[0, 5, 0, 0] += 1  # offset -4: attends in mixed frame 1
  change = attended(block, changed) - attended(block, video)
  differs = (np.abs(change) > 1e-6).any(axis=-1)[0]
  want = np.zeros((12, 3, 3), bool)
  for row, column in np.ndindex(3, 3):
    want[(1 - PATTERNS["c9"][row][column]) % 12, row, column] = True
  np.testing.assert_array_equal(differs, want)


def test_drop_path_removes_whole_branches_of_clips():
  block = build(PATCH, bias_frames=4, drop_path=0.5)
  video = clip(4, 4, 3, batch=64)

  @oracles.jit
  def outcomes(x, key):
    def with_attention(x):
      return x + 2 * block.attend(block.norm1(x), Grid(0, 4, 3), **EVAL)

    def with_mlp(x):
      return x + 2 * block.mlp(block.norm2(x))

    choices = (x, with_attention(x), with_mlp(x), with_mlp(with_attention(x)))
    rngs = nnx.Rngs(dropout=key)
    return choices, block(x, Grid(0, 4, 3), train=True, rngs=rngs)

  tokens = rearrange(video, "b t h w c -> b t (h w) c")
  choices, y = outcomes(tokens, jax.random.key(0))
  fits = np.stack(
    [np.isclose(y, x, atol=1e-4).all(axis=(1, 2, 3)) for x in choices]
  )
  np.testing.assert_array_equal(fits.sum(axis=0), 1)
  # 64 clips, each choice with probability 1/4: 16 +- 3.5.
  counts = fits.sum(axis=1)
  assert counts.min() >= 4, counts
  assert counts.max() <= 30, counts


@pytest.mark.parametrize(
  ("temporal", "options"),
  [
    (PATCH, {"bias_frames": 4}),
    (CHANNEL, {"bias_frames": 4}),
    (NONE, {"bias_frames": 1, "window": (2, 3, 3)}),
  ],
  ids=str,
)
def test_bfloat16_and_gradients(temporal, options):
  """A block keeps bfloat16, stays close, and trains what it owns."""
  wide = build(temporal, **options)
  narrow = build(temporal, **options | {"dtype": "bfloat16"})
  definition, params, stats = split(narrow)
  video = clip(4, 5, 4)
  tokens = rearrange(video, "b t h w c -> b t (h w) c")
  tokens = jnp.asarray(tokens, jnp.bfloat16)

  def loss(params):
    y = merge(definition, params, stats)(tokens, Grid(0, 5, 4), **EVAL)
    return (y.astype(jnp.float32) ** 2).mean(), y

  gradients, y = oracles.jit(jax.grad(loss, has_aux=True))(params)
  assert y.dtype == jnp.bfloat16
  want = run(wide, video).reshape(y.shape)
  np.testing.assert_allclose(oracles.array(y), want, atol=0.15)
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_bias_module():
  bias = oracles.initial(make_bias, (4, 3, 5), 6, key_frame="first", std=0.05)
  assert bias.table.shape == (7, 5, 9, 6)
  assert np.std(bias.table[...]) == pytest.approx(0.05, rel=0.05)
  frame = np.repeat(np.arange(4)[:, None], 15, axis=1)
  places = Places(frame, *np.indices((3, 5)).reshape(2, -1))
  assert bias(places).shape == (4, 6, 15, 15)
  bias.key_frame = "same"
  assert bias(places).shape == (1, 6, 15, 15)


def make_bias(*arguments, dtype, **keywords):
  del dtype
  return RelativeBias(*arguments, **keywords)


@pytest.mark.parametrize(("made_for", "frames"), [(4, 3), (4, 8), (2, 1)])
def test_other_frames_than_the_bias_is_made_for(made_for, frames):
  block = build(PATCH, bias_frames=made_for)
  message = (
    f"the position bias is made for {made_for} frames of tokens, but the clip "
    f"has {frames}; set bias_frames={frames} and convert given weights"
  )
  x = jax.ShapeDtypeStruct((1, frames, 12, C), "float32")
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(lambda x: block(x, Grid(0, 4, 3), **EVAL), x)
  assert "\n" not in str(error.value)


def test_a_bias_of_one_frame_serves_any_number():
  block = build(PATCH, **TIMELESS)
  for frames in (1, 3, 8):
    block.bias.check_frames(frames)


def test_a_map_smaller_than_the_window():
  block = build(PATCH, bias_frames=4)
  x = jax.ShapeDtypeStruct((1, 4, 8, C), "float32")
  with pytest.raises(ValueError, match="map of 4 x 2 tokens is smaller than"):
    jax.eval_shape(lambda x: block(x, Grid(0, 4, 2), **EVAL), x)


@pytest.mark.parametrize(
  ("temporal", "name", "keys"),
  [
    ({"op": "joint"}, "JointAttention", r"\(4, 1, 36, 16\)"),
    (
      {"op": "mixing", "summary_tokens": True},
      "Mixing",
      r"\(4, 4, 13, 16\)",
    ),
  ],
)
def test_plugs_that_regroup_the_tokens(temporal, name, keys):
  block = build(temporal, bias_frames=4)
  x = jax.ShapeDtypeStruct((1, 4, 25, C), "float32")
  message = f"{name} makes keys of shape {keys} from tokens of shape .* use it"
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(lambda x: block(x, Grid(0, 5, 5), **EVAL), x)
  assert "\n" not in str(error.value)
