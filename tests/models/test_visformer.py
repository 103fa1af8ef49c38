import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.models.cost import count_parameters, multiply_adds
from vidjax.models.visformer import AttentionBlock, Visformer, grid_sides
from vidjax.nn.batch_norm import batch_statistics
from vidjax.nn.functional import merge, split

IMAGE, CLASSES = 48, 5  # maps of 6 x 6, 3 x 3 and 1 x 1
TINY = {
  "image_size": IMAGE,
  "stem_width": 4,
  "dim": 16,
  "depths": (1, 2, 1),
  "heads": 2,
  "conv_groups": 4,
}
NONE = {"op": "none"}
LAPS = {"op": "leap", "levels": (1, 2), "shift": "periodic", "fold_div": 4}


def tiny(**options):
  """A Visformer with random, non-trivial weights. Do not change it."""
  return _tiny(json.dumps(options))


@functools.cache
def _tiny(options):
  options = TINY | {"temporal": LAPS} | json.loads(options)
  return oracles.build(Visformer, CLASSES, scale=0.15, **options)


def clips(frames=4, size=IMAGE, batch=2, seed=0):
  return oracles.normal(batch, frames, size, size, 3, seed=seed)


def naive_conv(layer, x):
  kernel, x = oracles.array(layer.kernel), oracles.array(x)
  side, _, width, out = kernel.shape
  pad, stride = layer.padding, layer.stride
  x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)])
  rows = (x.shape[2] - side) // stride + 1
  y = np.zeros((*x.shape[:2], rows, rows, out))
  for row, column in np.ndindex(rows, rows):
    i, j = row * stride, column * stride
    window = x[:, :, i : i + side, j : j + side]
    for group in range(layer.groups):
      own = slice(group * width, (group + 1) * width)
      made = slice(
        group * out // layer.groups, (group + 1) * out // layer.groups
      )
      y[:, :, row, column, made] = np.einsum(
        "btpqi,pqio->bto", window[..., own], kernel[..., made]
      )
  return y


def naive_norm(layer, x):
  normed = (x - oracles.array(layer.mean)) / np.sqrt(
    oracles.array(layer.var) + 1e-5
  )
  return normed * oracles.array(layer.scale) + oracles.array(layer.bias)


def naive_logits(model, video):
  """Visformer (Chen et al. 2021), attention inside the frames."""
  x = np.maximum(
    naive_norm(model.stem.norm, naive_conv(model.stem.conv, video)), 0
  )
  for stage in model.stages:
    p = stage.embed.side
    rows = x.shape[2] // p
    y = np.zeros((*x.shape[:2], rows, rows, stage.position.shape[-1]))
    for i, j in np.ndindex(rows, rows):
      patch = x[:, :, i * p : i * p + p, j * p : j * p + p]
      flat = patch.reshape(*x.shape[:2], -1)
      y[:, :, i, j] = oracles.linear(stage.embed.proj, flat)
    x = naive_norm(stage.norm, y) + oracles.array(stage.position)
    for block in stage.blocks:
      if isinstance(block, AttentionBlock):
        normed = naive_norm(block.norm1, x)
        tokens = normed.reshape(*x.shape[:2], -1, x.shape[-1])
        y = oracles.attend_frames(
          *oracles.project(block.attention, tokens), TINY["heads"]
        )
        x = x + oracles.linear(block.attention.proj, y).reshape(x.shape)
      y = oracles.gelu(
        oracles.linear(block.mlp.conv1, naive_norm(block.norm2, x))
      )
      if block.mlp.conv2 is not None:
        y = oracles.gelu(naive_conv(block.mlp.conv2, y))
      x = x + oracles.linear(block.mlp.conv3, y)
  frames = oracles.linear(
    model.head.fc, naive_norm(model.norm, x).mean(axis=(2, 3))
  )
  return frames.mean(axis=1)


def test_forward_equals_the_equations():
  model = tiny(temporal=NONE)
  logits = oracles.call(model, clips(2))
  assert logits.dtype == jnp.float32
  want = naive_logits(model, clips(2))
  np.testing.assert_allclose(logits, want, atol=3e-5)


def test_one_class_covers_the_variants():
  """All with the same weights: no plug of LAPS has any."""
  inside = oracles.call(tiny(temporal=NONE), clips())
  off = {"op": "leap", "levels": [None], "shift": "none"}
  np.testing.assert_array_equal(
    oracles.call(tiny(temporal=off), clips()), inside
  )
  different = [inside]
  for plug in (
    LAPS,
    LAPS | {"shift": "none"},
    LAPS | {"levels": [None]},
    LAPS | {"shift": "plain", "levels": [None]},
    {"op": "joint"},
  ):
    logits = oracles.call(tiny(temporal=plug), clips())
    assert all(np.abs(logits - y).max() > 1e-4 for y in different), plug
    different.append(logits)


def test_only_the_shift_tells_the_direction_of_time():
  forward, back = clips(), clips()[:, ::-1]
  leap = tiny(temporal=LAPS | {"shift": "none"})
  np.testing.assert_allclose(
    oracles.call(leap, back), oracles.call(leap, forward), atol=1e-5
  )
  laps = tiny()
  assert np.abs(
    oracles.call(laps, back) - oracles.call(laps, forward)
  ).max() > (1e-4)


def full(**options):
  return nnx.eval_shape(lambda: Visformer(400, **options, rngs=nnx.Rngs(0)))


def test_small_at_full_size():
  laps, inside, joint = (
    full(**options)
    for options in ({}, {"temporal": NONE}, {"temporal": {"op": "joint"}})
  )
  levels = [
    block.temporal.level for stage in laps.stages[1:] for block in stage.blocks
  ]
  assert levels == [1, 2, 3, 1, 2, 3, 1, 2]  # on through both stages
  for model in (laps, inside, joint):
    assert count_parameters(model) == 39_758_192
  video = jax.ShapeDtypeStruct((1, 8, 224, 224, 3), jnp.float32)
  costs = [multiply_adds(model, video) for model in (inside, laps, joint)]
  scores = 4 * 2 * (196**2 * 384 + 49**2 * 768)  # of one frame, once
  assert costs[1] - costs[0] == 8 * scores
  assert costs[2] - costs[0] == 8 * 7 * scores
  assert full(dim=192, stem_width=16, heads=3).head.fc.kernel.shape == (
    384,
    400,
  )


@pytest.mark.parametrize(
  ("size", "sides"),
  [
    (224, (28, 14, 7)),
    (256, (32, 16, 8)),
    (320, (40, 20, 10)),
    (360, (45, 22, 11)),
    (31, (4, 2, 1)),
  ],
)
def test_grids(size, sides):
  assert grid_sides(size) == sides
  model = full(image_size=size)
  assert tuple(stage.position.shape[0] for stage in model.stages) == sides
  video = jax.ShapeDtypeStruct((1, 8, size, size, 3), jnp.float32)
  definition, params, stats = split(model)

  def logits(params, stats, video):
    return merge(definition, params, stats)(video)

  assert jax.eval_shape(logits, params, stats, video).shape == (1, 400)


def test_positions_are_resized_to_other_frames():
  model = tiny()
  _, params, stats = split(model)
  other = split(
    nnx.eval_shape(
      lambda: Visformer(
        CLASSES, **TINY | {"image_size": 96, "temporal": LAPS}, rngs=nnx.Rngs(0)
      )
    )
  )[0]
  resized = jax.tree.map(lambda leaf: leaf, params)
  for number, side in enumerate((12, 6, 3)):
    table = params["stages"][str(number)]["position"]
    scale = side / len(table)
    resized["stages"][str(number)]["position"] = jnp.asarray(
      oracles.bicubic(table, (side, side), (scale, scale)), jnp.float32
    )
  np.testing.assert_allclose(
    oracles.call(model, clips(size=96)),
    oracles.call(merge(other, resized, stats), clips(size=96)),
    atol=1e-5,
  )


def train_once(**options):
  """Loss, gradients and statistics of a step with every dropout."""
  rates = {"dropout_rate": 0.3, "drop_path": 0.3, "attention_dropout": 0.3}
  definition, params, stats = split(tiny(**rates, **options))

  def loss(params):
    model = merge(definition, params, stats)
    logits = model(jnp.asarray(clips()), train=True, rngs=nnx.Rngs(dropout=7))
    return (logits**2).sum(), split(model)[2]

  return stats, *oracles.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_recomputation_changes_nothing():
  before, (loss, stats), gradients = train_once()
  _, (again, same_stats), same_gradients = train_once(remat="block")
  np.testing.assert_allclose(loss, again, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    (stats, gradients),
    (same_stats, same_gradients),
  )
  for (path, old), new in zip(
    jax.tree.leaves_with_path(before), jax.tree.leaves(stats), strict=True
  ):
    assert np.abs(new - old).max() > 0, jax.tree_util.keystr(path)


def test_evaluation_may_run_inside_a_loop():
  """As evaluation does over views: nothing may be changed in there."""
  model = tiny(remat="block")
  views = clips()[None]
  ours = oracles.jit(lambda views: jax.lax.map(model, views))(views)
  np.testing.assert_allclose(ours[0], oracles.call(model, clips()), atol=1e-5)


def test_groups_of_the_batch_do_not_see_each_other():
  model = tiny(bn_groups=2)
  one = clips(batch=4)
  other = one.copy()
  other[2:] = clips(batch=2, seed=1)
  first, second = (
    np.asarray(oracles.call(model, x, train=True)) for x in (one, other)
  )
  np.testing.assert_allclose(first[:2], second[:2], atol=1e-5)
  assert np.abs(first[2:] - second[2:]).max() > 1e-4


def test_batch_statistics_of_the_whole_model():
  definition, params, stats = split(tiny())
  pooled = oracles.jit(
    lambda video: batch_statistics(definition, params, stats, video)
  )(clips())
  assert pooled.clips == 2
  assert jax.tree.structure(pooled.stats) == jax.tree.structure(stats)
  stem = naive_conv(tiny().stem.conv, clips()).reshape(-1, 4)
  norm = pooled.stats["stem"]["norm"]
  np.testing.assert_allclose(norm["mean"], stem.mean(axis=0), atol=1e-5)
  np.testing.assert_allclose(norm["var"], stem.var(axis=0), rtol=1e-4)


def test_bfloat16_and_gradients():
  model = oracles.build(
    Visformer, CLASSES, scale=0.15, **TINY, temporal=LAPS, dtype=jnp.bfloat16
  )
  definition, params, stats = split(model)
  video = jnp.asarray(clips())

  def loss(params):
    logits = merge(definition, params, stats)(video, train=True)
    return (logits**2).mean(), logits

  gradients, logits = oracles.jit(jax.grad(loss, has_aux=True))(params)
  assert logits.dtype == jnp.float32
  for path, leaf in jax.tree.leaves_with_path(gradients):
    assert leaf.dtype == jnp.float32
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"image_size": 30}, "image_size is 30; use 31 pixels or more"),
    ({"depths": (1, 1)}, r"depths \(1, 1\); use an even dim"),
    ({"dim": 15}, "dim is 15"),
    ({"heads": 3}, "16 channels do not divide into 3 heads"),
    ({"conv_groups": 5}, "does not divide into 5 groups"),
    ({"drop_path": 1.0}, "drop_path is 1.0"),
    ({"remat": "all"}, "remat is 'all'"),
    ({"temporal": {"op": "warp"}}, r"temporal\.op is 'warp'"),
    ({"temporal": LAPS | {"step": 1}}, "'leap': there is no argument 'step'"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    nnx.eval_shape(
      lambda: Visformer(CLASSES, **TINY | options, rngs=nnx.Rngs(0))
    )


def test_frames_that_do_not_fit():
  with pytest.raises(ValueError, match="the frames are too small"):
    jax.eval_shape(tiny(), jnp.zeros((2, 4, 24, 24, 3)))
  with pytest.raises(ValueError, match="leap level 1 cannot pair 5 frames"):
    jax.eval_shape(tiny(), jnp.zeros((2, 5, IMAGE, IMAGE, 3)))
