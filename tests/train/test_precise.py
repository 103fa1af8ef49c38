"""Precise statistics, against a pool of all values that is made at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.xvit_motion import get_config
from tests.oracles import jit
from vidjax.data.manifest import load_manifest
from vidjax.data.motion import write_motion_clips
from vidjax.data.pipeline import train_batches
from vidjax.models.backbone import Backbone
from vidjax.nn.batch_norm import BatchNorm
from vidjax.nn.functional import merge, split
from vidjax.train.optim import make_optimizer
from vidjax.train.precise import make_precise_statistics
from vidjax.train.run import Run
from vidjax.train.sharding import make_mesh
from vidjax.train.state import TrainState, make_init
from vidjax.train.step import make_train_step

ROWS, ACCUMULATE = 4, 2


class Tiny(Backbone):
  """Batch norm on pixels, a layer, batch norm, the mean, logits."""

  def __init__(self, rngs: nnx.Rngs):
    self.first = BatchNorm(3, dtype=jnp.float32)
    self.layer = nnx.Linear(3, 5, rngs=rngs)
    self.second = BatchNorm(5, groups=2, dtype=jnp.float32)
    self.head = nnx.Linear(5, 12, rngs=rngs)

  def head_logits(self, video, *, train=False, rngs=None):
    x = jnp.square(self.layer(self.first(video, train=train)))
    return (self.head(self.second(x, train=train).mean(axis=(1, 2, 3))),)


def page(**train):
  config = get_config("smoke")
  config.data.batch_size = ROWS * ACCUMULATE
  config.data.frames = 2
  config.data.flip = 0.5
  config.schedule.warmup_lr = 1e-3
  config.train.update({"accumulate": ACCUMULATE, **train})
  return config


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  root = tmp_path_factory.mktemp("precise") / "motion"
  write_motion_clips(root, train_clips=24, val_clips=12, size=40)
  return load_manifest(root, "train")


@functools.cache
def parts():
  definition, params, stats = split(Tiny(nnx.Rngs(0)))
  config = page()
  optimizer = make_optimizer(config.optimizer, lambda step: 0.1, params)
  state = make_init(lambda key: (params, stats), optimizer, ema=True)(
    jax.random.key(0)
  )
  return definition, optimizer, state


def make(config, manifest, stats=True):
  definition, _, state = parts()
  mesh = make_mesh()
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
  )
  if not stats:
    abstract = dataclasses.replace(abstract, stats={})
  run = Run(
    definition=definition,
    mesh=mesh,
    init=lambda key: state,
    train_step=lambda state, batch: (state, {}),
    lower=lambda state, batch: None,
    abstract_state=abstract,
    parameters=0,
    frozen=0,
    multiply_adds=0,
  )
  return make_precise_statistics(run, config, manifest)


def state_at(step: int) -> TrainState:
  _, _, state = parts()
  # The moving average is evaluated, so its statistics are wanted.
  params = jax.tree.map(jnp.zeros_like, state.params)
  return dataclasses.replace(state, step=jnp.int32(step), params=params)


def pooled(config, manifest, state, first, count):
  """Mean and biased variance of all values at once, in float64."""
  data = config.data.copy_and_resolve_references()
  data.batch_size = ROWS
  with train_batches(manifest, data, seed=config.seed, start_step=first) as s:
    video = np.concatenate([next(s)["video"] for _ in range(count)])
  x = (video / 255.0 - config.data.mean) / config.data.std
  found = {"first": x}
  # The layers between normalise each batch by its own statistics.
  values = []
  ema = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.ema)
  for batch in np.split(x, count):
    mean, var = batch.mean((0, 1, 2, 3)), batch.var((0, 1, 2, 3))
    y = (batch - mean) / np.sqrt(var + 1e-5)
    layer = ema["layer"]
    values.append((y @ layer["kernel"] + layer["bias"]) ** 2)
  found["second"] = np.concatenate(values)
  axes = (0, 1, 2, 3)
  return {
    name: {"mean": v.mean(axes), "var": v.var(axes)}
    for name, v in found.items()
  }


@pytest.mark.parametrize(
  ("step", "asked", "count"), [(0, 1, 1), (2, 3, 3), (7, 200, 6)]
)
def test_statistics_are_those_of_all_values(manifest, step, asked, count):
  config = page(precise_bn_batches=asked)
  state = state_at(step)
  found = make(config, manifest)(state)
  want = pooled(config, manifest, state, step * ACCUMULATE, count)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
    found.stats,
    want,
  )
  for name in ("step", "params", "opt_state", "ema"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(found, name), getattr(state, name)
    )
  again = make(config, manifest)(state)
  jax.tree.map(np.testing.assert_array_equal, again.stats, found.stats)


def test_without_precise_statistics_a_state_stays(manifest):
  state = state_at(0)
  assert make(page(), manifest)(state) is state


@pytest.mark.parametrize(
  ("number", "message"),
  [
    (-1, "train.precise_bn_batches is -1; use 0 or more"),
    (5, "model 'xvit_motion' has no batch norm; set it to 0"),
  ],
)
def test_wrong_configuration(manifest, number, message):
  config = page(precise_bn_batches=number)
  with pytest.raises(ValueError, match=message):
    make(config, manifest, stats=False)


def test_running_statistics_pass_through_a_train_step():
  """Micro-batch by micro-batch, and not those that are missing."""
  config = page(partial_groups=True)
  definition, optimizer, state = parts()
  step = jit(make_train_step(definition, optimizer, lambda step: 0.1, config))
  rng = np.random.default_rng(0)
  shape = (ROWS * ACCUMULATE, 2, 8, 8, 3)
  batch = {
    "video": rng.integers(0, 256, shape).astype(np.uint8),
    "label": rng.integers(0, 12, shape[0]).astype(np.int32),
    "erase": np.zeros((shape[0], 4), np.int32),
    "weight": np.ones(shape[0], np.float32),
  }
  for missing in (False, True):
    batch["weight"][1::2] = not missing
    stats = state.stats
    for first in range(1 if missing else 2):
      model = merge(definition, state.params, stats)
      video = batch["video"][first::2] / 255.0
      video = (video - config.data.mean) / config.data.std
      model(jnp.asarray(video, jnp.float32), train=True)
      _, _, stats = split(model)
    new, _ = step(state, batch)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      new.stats,
      stats,
    )
    assert any(
      np.any(a != b)
      for a, b in zip(
        jax.tree.leaves(new.stats), jax.tree.leaves(state.stats), strict=True
      )
    )
