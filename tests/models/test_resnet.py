import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from vidjax.models.backbone import mean_prediction
from vidjax.models.resnet import (
  Bottleneck,
  ResNet,
  Stem,
  halve,
  larger,
)
from vidjax.models.sifa_models import SIFA_MODELS
from vidjax.nn.functional import merge, split
from vidjax.nn.init import torch_init
from vidjax.nn.interframe import InterFrame
from vidjax.nn.temporal import BlockShape, Temporal

IMAGE, CLASSES = 32, 5
TINY = {"image_size": IMAGE, "dim": 4, "depths": (1, 2, 2, 1)}
NONE = {"op": "none"}


def tiny(**options):
  """A SIFA-Net with random, non-trivial weights. Do not change it."""
  return _tiny(json.dumps(options))


@functools.cache
def _tiny(options):
  return build(ResNet, CLASSES, **TINY | json.loads(options))


def build(make, *arguments, **options):
  """Kernels that keep the signal's size; norms near one, biases near zero."""
  definition, params, stats = split(
    oracles.build(make, *arguments, scale=1.0, **options)
  )

  def draw(path, leaf):
    match path[-1].key:
      case "scale":
        return 1 + 0.1 * (leaf - 1)
      case "bias":
        return 0.1 * leaf
    return leaf * np.sqrt(2 / np.prod(leaf.shape[:-1]))

  def start(path, leaf):
    return leaf * (path[-1].key == "var")

  return merge(
    definition,
    jax.tree.map_with_path(draw, params),
    jax.tree.map_with_path(start, stats),
  )


def clips(frames=8, size=IMAGE, batch=2, seed=0):
  return oracles.normal(batch, frames, size, size, 3, seed=seed)


def naive_conv(layer, x):
  kernel, x = oracles.array(layer.kernel), oracles.array(x)
  side, pad, stride = len(kernel), layer.padding, layer.stride
  x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad), (0, 0)])
  rows, columns = ((n - side) // stride + 1 for n in x.shape[2:4])
  y = np.zeros((*x.shape[:2], rows, columns, kernel.shape[-1]))
  for row, column in np.ndindex(rows, columns):
    i, j = row * stride, column * stride
    window = x[:, :, i : i + side, j : j + side]
    y[:, :, row, column] = np.einsum("btpqi,pqio->bto", window, kernel)
  return y


def batch_norm(layer, x):
  x = (x - oracles.array(layer.mean)) / np.sqrt(oracles.array(layer.var) + 1e-5)
  return x * oracles.array(layer.scale) + oracles.array(layer.bias)


def naive_halve(x):
  """Maximum over what is there of 3 x 3 positions."""
  b, t, h, w, c = x.shape
  y = np.zeros((b, t, (h + 1) // 2, (w + 1) // 2, c))
  for i, j in np.ndindex(*y.shape[2:4]):
    rows = slice(max(2 * i - 1, 0), 2 * i + 2)
    columns = slice(max(2 * j - 1, 0), 2 * j + 2)
    y[:, :, i, j] = x[:, :, rows, columns].max(axis=(2, 3))
  return y


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 2)])
def test_halve(size):
  x = np.abs(oracles.normal(2, 3, *size, 4))
  np.testing.assert_array_equal(
    oracles.jit(halve)(x), naive_halve(x).astype(np.float32)
  )


def test_one_of_the_two_has_the_gradient():
  x, y = jnp.array([1.0, 2, 3]), jnp.array([2.0, 2, 1])
  np.testing.assert_array_equal(larger(x, y), [2, 2, 3])
  first, second = jax.grad(lambda x, y: larger(x, y).sum(), (0, 1))(x, y)
  np.testing.assert_array_equal(first, [0, 1, 1])
  np.testing.assert_array_equal(second, [1, 0, 0])


def test_stem():
  """A convolution over four frames at a time, each with its own kernel."""
  stem = oracles.build(Stem, 4, 4, bn_groups=1)
  video = clips(size=12)
  wanted = 0
  for frame in range(4):
    part = Stem(4, 4, bn_groups=1, dtype=jnp.float32, rngs=nnx.Rngs(0)).conv
    part.kernel = stem.conv.kernel[:, :, 3 * frame : 3 * frame + 3]
    wanted = wanted + naive_conv(part, video[:, frame::4])
  wanted = naive_halve(np.maximum(batch_norm(stem.norm, wanted), 0))
  y = oracles.call(stem, video, train=False)
  assert y.shape == (2, 2, 3, 3, 4)
  np.testing.assert_allclose(y, wanted, atol=1e-4)


def naive_block(block, x):
  """A bottleneck without plug, layer by layer."""
  y = oracles.array(x)
  if block.kind == "M":
    y = oracles.shift(y, (1, -1), y.shape[-1] // 8)
  if block.kind == "T":
    padded = np.pad(y, [(0, 0), (1, 1), *[(0, 0)] * 3])
    y = np.concatenate([padded[:, i : i + y.shape[1]] for i in range(3)], -1)
  y = np.maximum(batch_norm(block.norm1, oracles.linear(block.conv1, y)), 0)
  y = np.maximum(batch_norm(block.norm2, naive_conv(block.conv2, y)), 0)
  y = batch_norm(block.norm3, oracles.linear(block.conv3, y))
  skip = oracles.array(x)
  if block.shortcut is not None:
    stride = block.shortcut.stride
    skip = oracles.linear(block.shortcut.conv, skip[:, :, ::stride, ::stride])
    skip = batch_norm(block.shortcut.norm, skip)
  if block.context is not None:
    mean = y.mean(axis=(1, 2, 3))
    hidden = np.maximum(oracles.linear(block.context.fc1, mean), 0)
    given = oracles.linear(block.context.fc2, hidden)
    skip = skip + given[:, None, None, None]
  return np.maximum(y + skip, 0)


@pytest.mark.parametrize("kind", "BGMT")
@pytest.mark.parametrize(("dim", "stride"), [(16, 1), (16, 2), (8, 1)])
def test_bottleneck(kind, dim, stride):
  shape = BlockShape(4, 1, 1e-5, torch_init)
  block = oracles.build(
    Bottleneck, kind, dim, shape, stride, Temporal(), bn_groups=1
  )
  assert (block.shortcut is None) == (dim == 16 and stride == 1)
  x = oracles.normal(2, 3, 5, 6, dim)
  y = oracles.call(block, x, train=False)
  np.testing.assert_allclose(y, naive_block(block, x), atol=2e-4)


def test_plug_acts_between_the_last_convolutions():
  shape = BlockShape(4, 1, 1e-5, torch_init, stage=1, place=1)

  def make(dtype, rngs):
    options = {"places": "odd", "window": 0, "convolve": False, "norm": False}
    plug = InterFrame(
      shape, offsets="rescaled", dtype=dtype, rngs=rngs, **options
    )
    return Bottleneck(
      "B", 16, shape, 1, plug, bn_groups=1, dtype=dtype, rngs=rngs
    )

  block = oracles.build(make)
  x = oracles.normal(2, 3, 5, 6, 16)
  f = np.maximum(batch_norm(block.norm1, oracles.linear(block.conv1, x)), 0)
  f = np.maximum(batch_norm(block.norm2, naive_conv(block.conv2, f)), 0)
  added = oracles.call(block.temporal.attention, jnp.asarray(f, jnp.float32))
  y = oracles.linear(block.conv3, f + np.asarray(added))
  y = np.maximum(batch_norm(block.norm3, y) + x, 0)
  np.testing.assert_allclose(
    oracles.call(block, x, train=False), y, atol=5e-4, rtol=1e-4
  )


def test_blocks_start_as_their_shortcut():
  model = oracles.initial(ResNet, CLASSES, **TINY)
  scales = [
    block.norm3.scale[...]
    for stage in (*model.stages, model.dual_stage)
    for block in stage
  ]
  assert not any(np.asarray(scale).any() for scale in scales)
  weights = np.asarray(model.stem.conv.kernel[...])
  np.testing.assert_allclose(weights.std(), np.sqrt(2 / (4 * 196)), rtol=0.1)


def test_layout_of_sifa_net():
  model = tiny(depths=(3, 4, 6, 3))
  stages = [*model.stages, model.dual_stage]
  assert [len(stage) for stage in stages] == [3, 4, 6, 3, 3]
  for number, stage in enumerate(stages):
    for place, block in enumerate(stage):
      kind = "G" if number and place % 2 == 0 else "B"
      assert block.kind == kind
      attends = bool(number and place % 2)
      attention = getattr(block.temporal, "attention", None)
      assert (attention is not None) == attends
      stride = 2 if place == 0 and 0 < number < 4 else 1
      assert block.conv2.stride == stride


def test_the_softmax_of_the_logits_is_the_mean_of_both():
  video = clips()
  definition, params, stats = split(tiny())

  @oracles.jit
  def run(video):
    model = merge(definition, params, stats)
    return model(video), model.head_logits(video)

  logits, heads = run(video)
  assert len(heads) == 2
  assert not np.allclose(heads[0], heads[1])
  wanted = np.mean([jax.nn.softmax(each, -1) for each in heads], axis=0)
  np.testing.assert_allclose(jax.nn.softmax(logits, -1), wanted, atol=1e-6)
  np.testing.assert_allclose(np.exp(logits), wanted, atol=1e-6)
  extreme = jnp.array([[800.0, 0, -800]])
  assert np.isfinite(mean_prediction((extreme, -extreme))).all()


def test_the_heads_see_what_they_should():
  """Main: all maps. Dual: pairs at the finer resolution; an odd one is cut."""
  model = tiny(temporal=NONE, blocks="BBBB")
  video = clips(frames=12)
  definition, params, stats = split(model)
  run = oracles.jit(
    lambda video: merge(definition, params, stats).head_logits(video)
  )
  main, dual = run(video)
  cut = video.copy()
  cut[:, 8:] = 0
  other_main, other_dual = run(cut)
  np.testing.assert_allclose(dual, other_dual, atol=1e-6)
  assert not np.allclose(main, other_main)
  single = tiny(temporal=NONE, blocks="BBBB", dual_head=False)
  assert single.dual_stage is None
  y = oracles.call(single, video)
  assert len(single.head_logits(jnp.asarray(video))) == 1
  features = oracles.jit(lambda video: single.features(video))(video)
  np.testing.assert_allclose(
    y, oracles.linear(single.head.fc, features.mean(axis=1)), atol=1e-4
  )


@pytest.mark.parametrize(
  ("temporal", "blocks", "apart"),
  [(NONE, "BBBB", True), (NONE, "MMMM", False), (NONE, "TTTT", False)],
)
def test_frames_meet_only_in_what_is_chosen(temporal, blocks, apart):
  model = tiny(temporal=temporal, blocks=blocks, dual_head=False)
  video = clips(frames=12)
  run = oracles.jit(lambda video: model.features(video))
  changed = video.copy()
  changed[:, 4:8] = 0  # the second map
  same = np.isclose(run(video), run(changed), atol=1e-6).all(axis=(0, 2))
  assert same.tolist() == ([True, False, True] if apart else [False] * 3)


def test_only_the_attention_tells_a_clip_from_its_reversal():
  """With a stem of one frame; global context sees the frames' mean only."""
  video = clips()
  for temporal, blind in ((NONE, True), (None, False)):
    options = {"temporal": temporal} if temporal else {}
    model = tiny(stem_frames=1, **options)
    run = oracles.jit(lambda video, model=model: model(video))
    assert np.allclose(run(video), run(video[:, ::-1]), atol=1e-5) == blind


def test_remat_changes_no_value_and_keeps_the_statistics():
  video = jnp.asarray(clips())
  results = []
  for remat in ("none", "block"):
    definition, params, stats = split(tiny(remat=remat, dropout_rate=0.0))

    def loss(params, definition=definition, stats=stats):
      model = merge(definition, params, stats)
      logits = model.head_logits(video, train=True)
      return sum((each**2).mean() for each in logits), split(model)[2]

    results.append(oracles.jit(jax.grad(loss, has_aux=True))(params))
  (gradients, stats), (again, same) = results

  def check(one, other):
    scale = max(1, np.abs(one).max())
    np.testing.assert_allclose(one, other, atol=1e-4 * scale, rtol=1e-3)

  jax.tree.map(check, (gradients, stats), (again, same))
  start = split(tiny(remat="none", dropout_rate=0.0))[2]
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, start)
  assert all(jax.tree.leaves(moved))


def test_dropout_is_ahead_of_both_heads():
  definition, params, stats = split(tiny(temporal=NONE, blocks="BBBB"))

  @jax.jit
  def run(video, key):
    model = merge(definition, params, stats)
    rngs = nnx.Rngs(dropout=key)
    return model.head_logits(video, train=True, rngs=rngs)

  first, second = (run(clips(), jax.random.key(seed)) for seed in (0, 1))
  for a, b in zip(first, second, strict=True):
    assert not np.allclose(a, b)
  with pytest.raises(ValueError, match=r"dropout of 0\.5 in training needs"):
    oracles.call(tiny(temporal=NONE, blocks="BBBB"), clips(), train=True)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"blocks": ("B", "GB")}, r"depths are \(1, 2, 2, 1\) and blocks"),
    ({"blocks": ("B", "", "B", "B")}, "at least one letter"),
    ({"blocks": "BXBB"}, "a letter of blocks is 'X'; use one of 'B', 'G'"),
    ({"temporal": {"op": "mixing"}}, "Mixing acts around an attention"),
    ({"dim": 0}, "dim is 0"),
    ({"dropout_rate": 1.0}, r"dropout_rate is 1\.0"),
    ({"remat": "all"}, "remat is 'all'"),
  ],
)
def test_wrong_options(options, message):
  with pytest.raises(ValueError, match=message):
    oracles.build(ResNet, CLASSES, **TINY | options)


@pytest.mark.parametrize(
  ("frames", "message"),
  [
    (6, "the clip has 6 frames, but the stem joins 4 of them"),
    (4, "the dual head joins pairs of maps, but a clip of 4 frames has a"),
  ],
)
def test_wrong_number_of_frames(frames, message):
  with pytest.raises(ValueError, match=message):
    oracles.call(tiny(), clips(frames=frames))


@pytest.mark.parametrize(
  "name", [name for name in SIFA_MODELS if "motion" in name]
)
def test_motion_models_run(name):
  spec = SIFA_MODELS[name]
  model = build(spec.backbone, **spec.options)
  y = oracles.call(model, clips(spec.frames, spec.image_size, 1))
  assert y.shape == (1, 12)
