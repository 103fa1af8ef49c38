"""Precise statistics of batch norm, taken ahead of an evaluation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vidjax.checks import Config, at_least
from vidjax.data.manifest import Manifest
from vidjax.data.pipeline import steps_per_epoch, train_batches
from vidjax.nn.batch_norm import Pooled, pool
from vidjax.train.distributed import batch_part
from vidjax.train.optim import micro_batch_size
from vidjax.train.prefetch import DevicePrefetch
from vidjax.train.run import Run
from vidjax.train.sharding import on_mesh
from vidjax.train.state import TrainState
from vidjax.train.step import make_statistics_step


def make_precise_statistics(
  run: Run, config: Config, manifest: Manifest
) -> Callable[[TrainState], TrainState]:
  """Returns a function that replaces the running statistics of a state.

  The new ones are the mean and the biased variance of all values in
  `train.precise_bn_batches` micro-batches of training clips, but at most one
  epoch of them, for the parameters that are evaluated (the "precise batch norm"
  of Wu & Johnson 2021). The clips are those that follow the state's step, so
  the result depends on the state and the configuration alone; a training step
  does not depend on it. The statistics are of the whole micro-batch on all
  devices, whatever parts of it the model norms by themselves.

  If `train.precise_bn_batches` is 0, states stay as they are.

  Raises:
    ValueError: if the number is negative or the model has no running
      statistics.
  """
  count = config.train.precise_bn_batches
  at_least(0, **{"train.precise_bn_batches": count})
  if not count:
    return lambda state: state
  if not jax.tree.leaves(run.abstract_state.stats):
    raise ValueError(
      f"train.precise_bn_batches is {count}, but model {config.model.name!r} "
      "has no batch norm; set it to 0"
    )
  data = config.data.copy_and_resolve_references()
  data.batch_size = micro_batch_size(
    config.data.batch_size, config.train.accumulate
  )
  count = min(count, steps_per_epoch(manifest, data.batch_size))
  everywhere: Any = NamedSharding(run.mesh, PartitionSpec())
  shardings = Pooled(
    everywhere, jax.tree.map(lambda x: x.sharding, run.abstract_state.stats)
  )
  statistics = on_mesh(
    run.mesh,
    jax.jit(
      make_statistics_step(run.definition, config), out_shardings=shardings
    ),
  )
  add = jax.jit(pool, out_shardings=shardings, donate_argnums=0)

  def refine(state: TrainState) -> TrainState:
    first = int(state.step) * config.train.accumulate

    def part(place: int) -> Pooled:
      batch, number = next(batches), np.int32(place)
      return statistics(state.eval_params, state.stats, batch, number)

    host, hosts = batch_part(run.mesh)
    with (
      train_batches(
        manifest,
        data,
        seed=config.seed,
        start_step=first,
        host=host,
        hosts=hosts,
      ) as host_batches,
      DevicePrefetch(host_batches, run.mesh) as batches,
    ):
      pooled = part(first)
      for place in range(first + 1, first + count):
        # Waiting keeps batches from piling up on the device.
        pooled = jax.block_until_ready(add(pooled, part(place)))
    return dataclasses.replace(state, stats=pooled.stats)

  return refine
