"""Weights that a new run starts from: those of others, or of another run.

This is not resuming: step, optimiser and data start anew, and a classifier of
another number of classes keeps its initial values.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from vidjax.models.backbone import Backbone
from vidjax.nn.functional import Tree, merge
from vidjax.train.checkpoint import CheckpointError, Checkpoints
from vidjax.train.sharding import state_shardings
from vidjax.train.state import TrainState
from vidjax.weights.keys import flat
from vidjax.weights.pretrained import (
  Filled,
  fill,
  fill_from_file,
  fill_from_folder,
  find_pretrained,
)

_CHECKPOINT = "_CHECKPOINT_METADATA"  # a file of every folder of a step


def start_from(
  source: str,
  init: Callable[[jax.Array], TrainState],
  initial: Callable[[jax.Array], tuple[Tree, Tree]],
  definition: Any,
  mesh: Mesh,
  best_metric: str,
) -> Callable[[jax.Array], TrainState]:
  """Returns an `init` whose parameters and statistics are those of a source.

  It is called outside of `jax.set_mesh`, by all processes.

  Args:
    source: pretrained folder, Hub repository, weights file of any family, or
      the work directory, checkpoint folder or single checkpoint of a run, of
      which it takes the best, else the newest, and its moving average if it has
      one.
    init: compiled function from a key to the sharded state.
    initial: from a key to `(params, stats)`.
    definition: of the model.
    mesh: of the state.
    best_metric: by which the other run's best checkpoint is chosen.

  Returns:
    A function from a key to the sharded state at step 0. It raises ValueError
    if there is no such source, or if it does not fit; the message lists all.
  """

  def start(key: jax.Array) -> TrainState:
    model = merge(definition, *jax.jit(initial)(key))
    filled = _fill(source, model, mesh, best_metric)
    logging.info("starting from %s", filled.report)
    state = init(key)
    params = jax.tree.map(_place, filled.params, state.params)
    return dataclasses.replace(
      state,
      params=params,
      stats=jax.tree.map(_place, filled.stats, state.stats),
      # A copy: the step donates both.
      ema=None if state.ema is None else jax.tree.map(jnp.copy, params),
    )

  logging.info(
    "a new run starts from %s; one that continues from a checkpoint does not",
    source,
  )
  return start


def _fill(source: str, model: Backbone, mesh: Mesh, best_metric: str) -> Filled:
  path = pathlib.Path(source).absolute()
  if path.is_file():
    return fill_from_file(path, model, new_head=True)
  if (path / _CHECKPOINT).is_file() and path.name.isdecimal():
    saved, name = _read_checkpoint(path, mesh)
    return fill(saved, model, name, new_head=True)
  if any(_steps(path).glob(f"*/{_CHECKPOINT}")):
    saved, name = read_run(path, mesh, best_metric)
    return fill(saved, model, name, new_head=True)
  return fill_from_folder(find_pretrained(source), model, new_head=True)


def read_run(
  path: pathlib.Path, mesh: Mesh, best_metric: str
) -> tuple[dict[str, Any], str]:
  """Reads the weights of a run's best checkpoint, else its newest.

  Args:
    path: the work directory or its folder of checkpoints.
    mesh: over which the arrays are spread.
    best_metric: by which the best is chosen.

  Returns:
    Arrays by path (the moving average if there is one), and what to call them.

  Raises:
    ValueError: if there is no checkpoint, or it is damaged.
  """
  folder = _steps(path)
  with Checkpoints(folder, keep=1, best_metric=best_metric) as checkpoints:
    step = checkpoints.best_step() or checkpoints.latest_step()
  if step is None:
    raise CheckpointError(
      f"{path} has no checkpoint; train first, or name the work directory of a "
      "training run"
    )
  return _read_checkpoint(folder / str(step), mesh)


def _steps(path: pathlib.Path) -> pathlib.Path:
  """The folder of checkpoints of a work directory, or the path itself."""
  folder = path / "checkpoints"
  return folder if folder.is_dir() else path


def _read_checkpoint(
  path: pathlib.Path, mesh: Mesh
) -> tuple[dict[str, Any], str]:
  """Returns the weights of one checkpoint by path, and what to call them."""
  try:
    tree = ocp.metadata(str(path), "state").metadata
  except Exception as error:  # orbax raises many kinds for damaged files
    raise CheckpointError(
      f"the checkpoint {path} cannot be read ({error}); start from another"
    ) from error
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree
  )
  # The optimiser's state is read too, because what is read is then checked;
  # it is spread over the devices as the new run's will be.
  placed = jax.tree.map(
    lambda x, sharding: x.update(sharding=sharding),
    abstract,
    state_shardings(abstract, mesh),
  )
  with Checkpoints(path.parent, keep=1, best_metric="") as checkpoints:
    state = checkpoints.restore(placed, int(path.name))
  average = "ema" in state
  weights = state["ema" if average else "params"]
  name = f"{path}, the moving average" if average else str(path)
  return flat(weights) | flat(state.get("stats", {})), name


def _place(value: Any, like: jax.Array) -> jax.Array:
  """Returns an array with the dtype and sharding of another."""
  if isinstance(value, jax.Array) and value.sharding == like.sharding:
    return value
  host = np.asarray(value, like.dtype)
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: host[index]
  )
