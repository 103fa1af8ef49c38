"""Swin in training: gradients, recomputation, dropouts, frozen stages."""

import functools
import itertools
import re

import jax
import numpy as np
import pytest
from flax import nnx, traverse_util

from tests import oracles
from tests.models import tiny
from vidjax.nn.functional import merge, split

SMALL = {"bias_frames": 3}


def differentiate(model, train=False):
  """Compiled loss and gradients: of the weights, video and a random seed."""
  definition, params, stats = split(model)

  def loss(params, video, seed):
    rngs = nnx.Rngs(dropout=jax.random.key(seed)) if train else None
    logits = merge(definition, params, stats)(video, train=train, rngs=rngs)
    return (logits**2).mean()

  compiled = oracles.jit(jax.value_and_grad(loss))
  return lambda video, seed=0: compiled(params, video, seed)


@functools.cache
def trained(frozen_stages):
  """Loss, and gradients by path, of three frames without dropouts."""
  model = tiny.swin(**SMALL, frozen_stages=frozen_stages)
  loss, gradients = differentiate(model)(tiny.swin_video(3))
  flat = traverse_util.flatten_dict(gradients, sep="/")
  return float(loss), {path: np.asarray(leaf) for path, leaf in flat.items()}


def assert_same(results, wanted):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5),
    results,
    wanted,
  )


def test_every_parameter_is_trained():
  for path, leaf in trained(0)[1].items():
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0, path


def test_only_biases_of_the_past_have_no_gradient():
  """The official key frame: blocks without patch shift own 16 of 31 slices."""
  _, gradients = trained(0)
  for stage in (0, 1):
    channel, patch = (
      gradients[f"stages/{stage}/blocks/{i}/bias/table"] for i in (0, 1)
    )
    assert not channel[:2].any()
    assert np.abs(channel[2:]).max(axis=(1, 2, 3)).all()
    assert np.abs(patch).max(axis=(1, 2, 3)).all()


def test_remat_changes_nothing():
  """With dropouts, so that they must draw the same again."""
  options = SMALL | {
    "depths": (2,),
    "heads": (2,),
    "drop_path": 0.5,
    "attention_dropout": 0.3,
    "dropout_rate": 0.2,
  }
  kept, recomputed = (
    differentiate(tiny.swin(**options, remat=remat), train=True)
    for remat in ("none", "block")
  )
  video = tiny.swin_video(3)
  losses = []
  for seed in (0, 1):
    result = kept(video, seed)
    assert_same(recomputed(video, seed), result)
    losses.append(result[0])
  assert abs(losses[0] - losses[1]) > 1e-3  # the dropouts are on


def test_remat_recomputes_in_the_backward_pass():
  def products(remat):
    model = tiny.swin(**SMALL, remat=remat)
    gradient = jax.grad(lambda video: model(video).sum())
    return str(jax.make_jaxpr(gradient)(tiny.swin_video(3))).count(
      "dot_general["
    )

  # Of six products of a block, all but the last are needed again.
  assert products("block") - products("none") >= 4 * 5


def test_bfloat16_is_close():
  video = tiny.swin_video(3)
  wide, narrow = (
    oracles.call(tiny.swin(**SMALL, **options), video)
    for options in ({}, {"dtype": "bfloat16"})
  )
  assert wide.dtype == narrow.dtype == np.float32
  assert 0 < np.abs(wide - narrow).max() < 0.1 * np.abs(wide).max()


def test_drop_path_is_drawn_for_every_clip():
  # Block 0 of one stage drops nothing, block 1 each branch of a clip by half.
  model = tiny.swin(**SMALL, depths=(2,), heads=(2,), drop_path=0.5)
  video = np.repeat(tiny.swin_video(3, 12, 12, batch=1), 64, axis=0)

  @oracles.jit
  def features(video, key):
    return model.features(video, train=True, rngs=nnx.Rngs(dropout=key))

  y = np.asarray(features(video, jax.random.key(0))).reshape(64, -1).round(3)
  _, counts = np.unique(y, axis=0, return_counts=True)
  # Both branches, one, the other, none: all frames of a clip together.
  assert len(counts) == 4
  # 64 clips, each with probability 1/4: 16 +- 3.5.
  assert counts.min() >= 4
  assert counts.max() <= 32


def test_dropout_of_the_head_acts_on_the_mean():
  options = {"depths": (1,), "heads": (1,), "dim": 8}
  model = tiny.swin(**SMALL, **options, dropout_rate=0.5)
  kernel = np.asarray(model.head.fc.kernel[...])
  bias = np.asarray(model.head.fc.bias[...])
  video = np.repeat(tiny.swin_video(3, 12, 12, batch=1), 8, axis=0)

  @oracles.jit
  def run(video, key):
    rngs = nnx.Rngs(dropout=key)
    return model.features(video), model(video, train=True, rngs=rngs)

  features, logits = run(video, jax.random.key(0))
  mean = np.asarray(features).mean(axis=1)
  # Which of the channels were kept, told from the logits alone.
  kept = 2 * np.array(list(itertools.product((0, 1), repeat=8)))
  found = set()
  for clip, row in zip(mean, np.asarray(logits), strict=True):
    distance = np.abs(clip * kept @ kernel + bias - row).max(axis=1)
    assert distance.min() < 1e-5
    found.add(int(distance.argmin()))
  assert len(found) > 4  # of eight clips


def test_evaluation_draws_nothing():
  model = tiny.swin(**SMALL, drop_path=0.5, dropout_rate=0.5)
  calm = tiny.swin(**SMALL)
  video = tiny.swin_video(3)
  np.testing.assert_array_equal(
    oracles.call(model, video), oracles.call(calm, video)
  )


PARTS = [r"patch_(embed|norm)/.*", r"stages/0/.*", r"stages/1/.*"]


@pytest.mark.parametrize("parts", [0, 1, 2, 3])
def test_frozen_parts(parts):
  """They have exactly no gradient, and `frozen` names exactly them."""
  model = tiny.swin(**SMALL, frozen_stages=parts)
  loss, gradients = trained(parts)
  whole_loss, whole = trained(0)
  assert loss == pytest.approx(whole_loss)
  for path, leaf in gradients.items():
    frozen = any(re.fullmatch(part, path) for part in PARTS[:parts])
    assert any(re.search(part, path) for part in model.frozen) == frozen, path
    want = np.zeros(leaf.shape) if frozen else whole[path]
    np.testing.assert_allclose(
      leaf, want, rtol=2e-3, atol=0 if frozen else 2e-5, err_msg=path
    )


def test_frozen_parts_do_not_drop():
  def run(parts):
    model = tiny.swin(
      **SMALL,
      depths=(1, 1),
      frozen_stages=parts,
      drop_path=0.9,
      attention_dropout=0.5,
    )

    @oracles.jit
    def change(video, key):
      features = model.features(video, train=True, rngs=nnx.Rngs(dropout=key))
      return features - model.features(video)

    video = tiny.swin_video(3)
    return float(np.abs(change(video, jax.random.key(0))).max())

  assert run(2) > 1e-2  # the second stage is not frozen
  assert run(3) == 0


def test_no_stage_is_too_many_to_freeze():
  model = tiny.swin(depths=(1, 1, 1), heads=(1, 2, 4), frozen_stages=2)
  assert model.frozen == (r"^patch_(embed|norm)/", r"^stages/0/")
  assert tiny.swin().frozen == ()
