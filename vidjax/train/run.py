"""What a run builds before its first step: model, mesh, state, functions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from flax import nnx
from jax.sharding import Mesh

from vidjax.checks import Config, one_of
from vidjax.models.cost import multiply_adds
from vidjax.models.registry import create_model
from vidjax.nn.functional import split
from vidjax.nn.rngs import counted_rngs
from vidjax.train.init_from import start_from
from vidjax.train.mixup import check_mixup
from vidjax.train.optim import lr_factors, make_optimizer, micro_batch_size
from vidjax.train.schedule import learning_rate
from vidjax.train.sharding import (
  check_batch,
  make_mesh,
  on_mesh,
  state_shardings,
)
from vidjax.train.state import TrainState, make_init
from vidjax.train.step import make_train_step
from vidjax.train.throughput import with_prefix


@dataclasses.dataclass(frozen=True)
class Run:
  """A model on a mesh, ready to be trained or evaluated.

  Attributes:
    definition: the model, to be merged with parameters.
    mesh: the devices.
    init: function from a key to the sharded state at step 0.
    train_step: `(state, batch) -> (state, metrics)`; donates state.
    lower: from shapes of both to the lowered program of a train step.
    abstract_state: shapes, dtypes and shardings of the state.
    parameters: number of parameters.
    frozen: how many of them do not train.
    multiply_adds: of the forward pass of one clip.
  """

  definition: Any
  mesh: Mesh
  init: Callable[[jax.Array], TrainState]
  train_step: Any
  lower: Callable[..., Any]
  abstract_state: TrainState
  parameters: int
  frozen: int
  multiply_adds: int


def build(
  config: Config,
  total_steps: int,
  steps_per_epoch: int,
  devices: Sequence[Any] | None = None,
) -> Run:
  """Builds the run that a configuration describes; computes nothing.

  The forward pass is traced once, so options that do not fit each other fail
  here and not after the first epoch.

  Args:
    config: complete configuration.
    total_steps: optimiser steps of the run.
    steps_per_epoch: optimiser steps of an epoch.
    devices: of the mesh; None takes all there are.

  Raises:
    ValueError: if a part of the configuration does not fit another.
  """
  one_of("dtype", config.dtype, ("float32", "bfloat16"))
  mesh = make_mesh(**config.mesh, devices=devices)
  _check_batches(config, mesh)
  model = abstract_model(config)
  definition, params, stats = split(model)
  if stats:
    _warn_of_single_clips(config)
  data = config.data
  video = jax.ShapeDtypeStruct(
    (1, data.frames, data.image_size, data.image_size, 3), "float32"
  )
  macs = multiply_adds(model, video)
  schedule = learning_rate(
    config.schedule, total_steps, steps_per_epoch, config.train.accumulate
  )
  frozen = getattr(model, "frozen", ())
  optimizer = make_optimizer(
    config.optimizer,
    schedule,
    params,
    clip_norm=config.train.clip_norm,
    frozen=frozen,
  )
  factors = lr_factors(params, config.optimizer.lr_multipliers, frozen)
  trains = jax.tree.map(lambda factor: factor > 0, factors)

  def initial(key: jax.Array):
    _, params, stats = split(_create(config, counted_rngs(default=key)))
    return params, stats

  init = make_init(initial, optimizer, ema=config.train.ema_decay > 0)
  abstract = jax.eval_shape(init, jax.random.key(0))
  shardings = state_shardings(abstract, mesh)
  # Without out_shardings the optimiser's moments would be replicated.
  init = jax.jit(init, out_shardings=shardings)
  if config.init_from:
    init = start_from(
      config.init_from, init, initial, definition, mesh, config.checkpoint.best
    )
  train_step = jax.jit(
    make_train_step(definition, optimizer, schedule, config, trains),
    in_shardings=(shardings, None),  # a batch says itself how it is split
    out_shardings=(shardings, None),
    donate_argnums=0,
  )
  run = Run(
    definition=definition,
    mesh=mesh,
    init=init,
    train_step=on_mesh(mesh, train_step),
    lower=on_mesh(mesh, train_step.lower),
    abstract_state=jax.tree.map(_with_sharding, abstract, shardings),
    parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
    frozen=sum(
      leaf.size
      for leaf, trained in zip(
        jax.tree.leaves(params), jax.tree.leaves(trains), strict=True
      )
      if not trained
    ),
    multiply_adds=macs,
  )
  logging.info(
    "%s: %s parameters (%s frozen), %s multiply-adds a clip, mesh %s",
    config.model.name,
    f"{run.parameters:,}",
    f"{run.frozen:,}",
    with_prefix(macs),
    dict(mesh.shape),
  )
  return run


def _check_batches(config: Config, mesh: Mesh) -> None:
  """Checks that the parts of a batch divide it, without any data."""
  size, options = config.data.batch_size, config.train
  check_batch("data.batch_size", size, mesh)
  rows = micro_batch_size(size, options.accumulate)
  check_batch("data.batch_size / train.accumulate", rows, mesh)
  if options.mixup_alpha:
    check_mixup(options.mixup_alpha, options.mixup_group, rows)


def _warn_of_single_clips(config: Config) -> None:
  """Warns if batch norm in training sees one clip at a time.

  The last norm and the mean over the same values then give every clip the
  same logits, and all gradients but the classifier's bias are zero.
  """
  parts = config.train.accumulate * config.model.get("bn_groups", 1)
  if config.data.batch_size == parts:
    logging.warning(
      "batch norm takes its statistics over a single clip (data.batch_size=%d, "
      "train.accumulate=%d, model.bn_groups=%d), from which a model that ends "
      "with a batch norm learns nothing; use a larger batch or fewer parts",
      config.data.batch_size,
      config.train.accumulate,
      config.model.get("bn_groups", 1),
    )


def abstract_model(config: Config) -> Any:
  """Returns the configuration's model with shapes instead of arrays."""
  return nnx.eval_shape(lambda: _create(config, counted_rngs(default=0)))


def _create(config: Config, rngs: nnx.Rngs) -> Any:
  options = config.model.to_dict()
  name = options.pop("name")
  return create_model(
    name, rngs=rngs, dtype=config.dtype, remat=config.remat, **options
  )


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
