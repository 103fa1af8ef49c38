"""The two steps, against updates and counts that are written out by hand."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.xvit_motion import get_config
from tests.oracles import jit
from vidjax.nn.functional import merge, split
from vidjax.train.metrics import ClassificationSums
from vidjax.train.optim import make_optimizer
from vidjax.train.run import abstract_model
from vidjax.train.schedule import learning_rate
from vidjax.train.state import TrainState, make_init
from vidjax.train.step import make_eval_step, make_train_step

B, SIZE, FRAMES, CLASSES = 8, 32, 4, 12
STEPS, EPOCH = 20, 5
RANDOM = {"model__dropout_rate": 0.5, "model__drop_path": 0.5}
Step = Callable[..., tuple[TrainState, dict[str, Any]]]


def page(**changes):
  """The demo's page with SGD and nothing that is random."""
  config = get_config("smoke")
  config.optimizer.update({"name": "sgd", "weight_decay": 0.01, "no_decay": ()})
  config.schedule.update({"base_lr": 0.1, "warmup_lr": 0.05})
  config.train.clip_norm = 0.0
  for key, value in changes.items():
    section, _, name = key.rpartition("__")
    (config[section] if section else config)[name] = value
  return config


@functools.cache
def weights():
  """Random values of every parameter, so that no gradient is zero."""
  _, params, stats = split(abstract_model(page()))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    gain = path[-1].key == "scale"
    return gain + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32)

  assert not stats
  return jax.tree.map_with_path(draw, params)


@functools.cache
def start(**changes) -> tuple[TrainState, Step]:
  """The state at step 0, which no test donates, and the compiled step."""
  config = page(**changes)
  schedule = learning_rate(config.schedule, STEPS, EPOCH)
  optimizer = make_optimizer(
    config.optimizer, schedule, weights(), clip_norm=config.train.clip_norm
  )
  definition, _, _ = split(abstract_model(config))
  init = make_init(
    lambda key: (weights(), {}), optimizer, ema=config.train.ema_decay > 0
  )
  function = make_train_step(definition, optimizer, schedule, config)
  return init(jax.random.key(0)), jit(function)


@functools.cache
def batch(seed: int = 0):
  rng = np.random.default_rng(seed)
  shape = (B, FRAMES, SIZE, SIZE, 3)
  return {
    "video": rng.integers(0, 256, shape).astype(np.uint8),
    "label": rng.integers(0, CLASSES, B).astype(np.int32),
    "erase": np.tile(np.array([4, 6, 10, 20], np.int32), (B, 1)),
    "weight": np.ones(B, np.float32),
  }


def plain(config):
  """Loss, logits and gradients of a batch; nothing of the step is used."""
  definition, _, _ = split(abstract_model(config))
  smooth = config.train.label_smoothing

  @jit
  def run(params, video, labels):
    def loss(params):
      logits = merge(definition, params, {})(video)
      log_p = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
      targets = (1 - smooth) * jnp.eye(CLASSES)[labels] + smooth / CLASSES
      return -(targets * log_p).sum(-1).mean(), logits

    return jax.value_and_grad(loss, has_aux=True)(params)

  return run


def prepared(video, config):
  mean, std = np.float32(config.data.mean), np.float32(config.data.std)
  return (video.astype(np.float32) / 255 - mean) / std


def assert_close(ours, theirs, tolerance=1e-5):
  """Every leaf, to a share of its largest entry."""
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for path, value in jax.tree.leaves_with_path(theirs):
    found = functools.reduce(lambda tree, key: tree[key.key], path, ours)
    atol = tolerance * max(float(np.abs(value).max()), 1e-6)
    name = jax.tree_util.keystr(path)
    np.testing.assert_allclose(found, value, rtol=0, atol=atol, err_msg=name)


def assert_equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_three_steps_of_sgd_equal_updates_by_hand():
  changes = {
    "train__label_smoothing": 0.3,
    "train__ema_decay": 0.9,
    "data__erase": 0.5,
    "data__mean": (0.4, 0.5, 0.6),
    "data__std": (0.2, 0.3, 0.4),
  }
  config = page(**changes)
  state, step = start(**changes)
  oracle = plain(config)
  params, trace = weights(), jax.tree.map(np.zeros_like, weights())
  ema = params
  for number in range(3):
    data = batch(number)
    video = prepared(data["video"], config)
    video[:, :, 4:14, 6:26] = 0  # the boxes
    state, metrics = step(state, data)
    (loss, logits), gradients = oracle(params, video, data["label"])

    norm = sum(float((g**2).sum()) for g in jax.tree.leaves(gradients)) ** 0.5
    hits = np.asarray(logits).argmax(-1) == data["label"]
    # Warm-up over 0.3 epochs of 5 steps, then a cosine over 4 epochs.
    epoch = number / EPOCH
    top = 0.05 * (1 + np.cos(np.pi * 0.3 / 4))
    rate = 0.05 * (1 + np.cos(np.pi * epoch / 4))
    if epoch < 0.3:
      rate = 0.05 + (top - 0.05) * epoch / 0.3
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], hits.mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["lr"], rate, rtol=1e-6)

    decayed = jax.tree.map(lambda g, p: g + 0.01 * p, gradients, params)
    trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, decayed)
    params = jax.tree.map(
      lambda p, g, t, rate=rate: p - rate * (g + 0.9 * t),
      params,
      decayed,
      trace,
    )
    ema = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, ema, params)
    assert int(state.step) == number + 1
    assert_close(state.params, params, 3e-5)
    assert_close(state.ema, ema, 3e-5)
    assert state.eval_params is state.ema


def test_without_a_moving_average_the_parameters_are_evaluated():
  state, _ = start()
  assert state.ema is None
  assert state.eval_params is state.params


def test_boxes_are_not_looked_at_without_erasing():
  state, step = start()
  other = batch() | {"erase": np.zeros((B, 4), np.int32)}
  assert_equal(step(state, batch()), step(state, other))


def test_clips_of_weight_zero_change_nothing():
  state, step = start()
  weight = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.float32)
  real = weight > 0
  data = batch() | {"weight": weight}
  noise = batch(1)
  other = {
    "video": np.where(
      real[:, None, None, None, None], data["video"], noise["video"]
    ),
    "label": np.where(real, data["label"], noise["label"]),
    "erase": data["erase"],
    "weight": weight,
  }
  ours = step(state, data)
  assert_equal(ours, step(state, other))
  video = prepared(data["video"], page())[real]
  (loss, logits), gradients = plain(page())(
    weights(), video, data["label"][real]
  )
  norm = sum(float((g**2).sum()) for g in jax.tree.leaves(gradients)) ** 0.5
  hits = np.asarray(logits).argmax(-1) == data["label"][real]
  np.testing.assert_allclose(ours[1]["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(ours[1]["accuracy"], hits.mean(), rtol=1e-6)
  np.testing.assert_allclose(ours[1]["gradient_norm"], norm, rtol=1e-5)


def test_a_batch_without_a_readable_clip_only_decays_the_weights():
  state, step = start()
  new, metrics = step(state, batch() | {"weight": np.zeros(B, np.float32)})
  assert float(metrics["loss"]) == float(metrics["gradient_norm"]) == 0
  shrunk = jax.tree.map(lambda p: p * (1 - 0.05 * 1.9 * 0.01), weights())
  assert_close(new.params, shrunk)


def test_micro_batches_do_not_change_the_step():
  weight = np.array([1, 0, 1, 0, 1, 0, 1, 1], np.float32)  # 4 and 1
  data = batch() | {"weight": weight}
  state, step = start()
  whole, expected = step(state, data)
  _, step = start(train__accumulate=2)
  ours, metrics = step(state, data)
  assert_close(metrics, expected)
  assert_close(ours.params, whole.params)


def test_clipping_scales_the_update_and_not_the_reported_norm():
  state, step = start()
  free, metrics = step(state, batch())
  norm = float(metrics["gradient_norm"])
  clipped, step = start(train__clip_norm=norm / 4)
  ours, found = step(clipped, batch())
  np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-6)
  # Without the decay of the weights the update is a quarter.
  shrunk = jax.tree.map(lambda p: p * (1 - 0.05 * 1.9 * 0.01), weights())
  expected = jax.tree.map(
    lambda old, new: old + (new - old) / 4, shrunk, free.params
  )
  assert_close(ours.params, expected)


def at_step_one(state: TrainState) -> TrainState:
  return dataclasses.replace(state, step=state.step + 1)


def loss(result) -> float:
  return float(result[1]["loss"])


@pytest.mark.parametrize(
  "random", [RANDOM, {"train__mixup_alpha": 0.4}], ids=str
)
def test_draws_depend_on_the_step_alone(random):
  state, step = start(**random)
  ours = step(state, batch())
  assert_equal(ours, step(state, batch()))
  assert loss(ours) != loss(step(at_step_one(state), batch()))


def test_without_draws_the_loss_does_not_depend_on_the_step():
  state, step = start()
  later = step(at_step_one(state), batch())
  assert loss(step(state, batch())) == loss(later)


def test_draws_depend_on_the_seed():
  state, step = start(**RANDOM)
  _, other = start(**RANDOM, seed=1)
  assert loss(step(state, batch())) != loss(other(state, batch()))


def test_recomputed_blocks_give_the_same_step():
  state, step = start(**RANDOM)
  expected, metrics = step(state, batch())
  _, step = start(**RANDOM, remat="block")
  ours, found = step(state, batch())
  assert_close(found, metrics)
  assert_close(ours.params, expected.params)


def test_bfloat16_stays_close_and_keeps_float32_parameters():
  state, step = start()
  _, expected = step(state, batch())
  _, step = start(dtype="bfloat16")
  ours, metrics = step(state, batch())
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(ours.params))
  assert float(metrics["loss"]) != float(expected["loss"])
  for name in ("loss", "gradient_norm"):
    np.testing.assert_allclose(metrics[name], expected[name], rtol=0.03)


class Pixels(nnx.Module):
  """Logits are what is written in the first row of the first frame."""

  def __call__(self, video: jax.Array) -> jax.Array:
    return video[:, 0, 0, :, 0]


def fuse(logits, how):
  """Scores of one video, (v k)."""
  if how == "logits":
    return logits.sum(0)
  powers = np.exp(logits)
  return (powers / powers.sum(1, keepdims=True)).mean(0)


@pytest.mark.parametrize("how", ["logits", "softmax"])
def test_evaluation_counts_real_rows_once(how):
  rows, views, classes = 40, 3, 7
  rng = np.random.default_rng(0)
  video = rng.integers(0, 256, (rows, views, 1, 1, classes, 3)).astype(np.uint8)
  label = rng.integers(0, classes, rows).astype(np.int32)
  mask = (rng.random(rows) < 0.8).astype(np.float32)
  readable = rng.random(rows) < 0.8
  config = page(
    eval__fusion=how, data__mean=(0.5, 0.0, 0.0), data__std=(0.1, 1.0, 1.0)
  )
  definition, params, stats = split(Pixels())
  step = jit(make_eval_step(definition, config))
  data = {
    "video": video,
    "label": label,
    "index": np.arange(rows, dtype=np.int32),
    "mask": mask,
    "readable": readable,
  }
  before = ClassificationSums.empty(classes)
  sums, found = step(params, stats, before, data)

  logits = (video[:, :, 0, 0, :, 0] / 255.0 - 0.5) / 0.1
  count, confusion = np.zeros(classes), np.zeros((classes, classes))
  for row in range(rows):
    best = fuse(logits[row], how).argmax()
    if readable[row]:
      assert found["prediction"][row] == best
      np.testing.assert_allclose(
        found["scores"][row], fuse(logits[row], "softmax"), rtol=1e-4
      )
    if mask[row]:
      count[label[row]] += 1
      confusion[label[row], best] += readable[row]
  np.testing.assert_array_equal(sums.count, count)
  np.testing.assert_array_equal(sums.confusion, confusion)
  assert int(sums.top1) == np.trace(confusion)
  for name in ("index", "mask", "readable"):
    np.testing.assert_array_equal(found[name], data[name])

  other = {"logits": "softmax", "softmax": "logits"}[how]
  assert any(fuse(x, how).argmax() != fuse(x, other).argmax() for x in logits)


def test_sums_go_on_from_batch_to_batch():
  definition, params, stats = split(Pixels())
  step = jit(make_eval_step(definition, page()))
  data = {
    "video": np.full((2, 1, 1, 1, 6, 3), 9, np.uint8),
    "label": np.zeros(2, np.int32),
    "index": np.arange(2, dtype=np.int32),
    "mask": np.array([1, 0], np.float32),
    "readable": np.array([True, True]),
  }
  sums = ClassificationSums.empty(6)
  for _ in range(3):
    sums, _ = step(params, stats, sums, data)
  assert sums.compute()["count"] == 3
  assert sums.compute()["top1"] == 1
