"""The training program: one function, straight down."""

import pathlib
import time
from typing import Any

import jax
from absl import logging

from vidjax.checks import Config
from vidjax.data.manifest import Manifest
from vidjax.data.pin import pin_manifests
from vidjax.data.pipeline import TooManyBadVideosError, train_batches
from vidjax.data.pipeline import steps_per_epoch as count_steps_per_epoch
from vidjax.data.source import open_splits
from vidjax.evaluate import make_evaluator
from vidjax.train.checkpoint import Checkpoints
from vidjax.train.distributed import (
  LostProcessError,
  Watchdog,
  batch_part,
  in_turn,
  losses_named,
)
from vidjax.train.durations import in_steps
from vidjax.train.nonfinite import FiniteCheck, NonFiniteError
from vidjax.train.optim import micro_batch_size
from vidjax.train.precise import make_precise_statistics
from vidjax.train.preempt import StopSignal
from vidjax.train.prefetch import DevicePrefetch
from vidjax.train.results import prepare_workdir, write_results
from vidjax.train.run import build
from vidjax.train.throughput import peak_flops
from vidjax.train.writers import MetricWriter, Progress

# What a user can mend: shown as one sentence, without a traceback.
EXPECTED_ERRORS = (
  ValueError,
  OSError,
  ImportError,
  LostProcessError,
  NonFiniteError,
  TooManyBadVideosError,
)


def train(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains, evaluates and reports what a configuration describes.

  A work directory that holds checkpoints is continued from the newest one that
  is intact, exactly: same data, same random draws, on any number of devices and
  processes. After a step the order is: stop signal, check, log, precise
  statistics, evaluation, checkpoint, and only then the next batch.

  In a job of several processes all of them call this, with one work directory
  that they share; process 0 alone writes other files than checkpoints.

  Args:
    config: complete configuration (configs/common.py).
    workdir: folder of everything that the run writes.

  Returns:
    The summary that is also written to summary.json.

  Raises:
    NonFiniteError: if the loss or gradient norm is not finite, or too often if
      `train.nonfinite` is "skip"; the last good checkpoint is kept.
    LostProcessError: if another process has ended.
    ValueError: if the configuration, the data or a checkpoint does not fit.
  """
  # --- data and durations
  train_split, eval_split = _prepare(config, workdir)
  micro_batch = _micro_batch(config)
  epoch = count_steps_per_epoch(
    train_split, config.data.batch_size, micro_batch
  )

  total = in_steps("train.", config.train, epoch)
  eval_every = in_steps("eval.every_", config.eval, epoch)
  save_every = in_steps("checkpoint.every_", config.checkpoint, epoch)

  finite = FiniteCheck(config.train.nonfinite, config.train.max_skips)

  # --- model, state, evaluation
  run = build(config, total, epoch)
  refine = make_precise_statistics(run, config, train_split)
  evaluate = make_evaluator(run.definition, config, eval_split, run.mesh)
  peak = peak_flops(jax.devices()[0].device_kind, config.dtype)
  with (
    _open_checkpoints(workdir, config) as checkpoints,
    MetricWriter(
      workdir,
      tensorboard=config.writers.tensorboard,
      wandb_project=config.writers.wandb_project,
      config=config.to_dict(),
    ) as writer,
    StopSignal() as signal,
    losses_named(),
  ):
    start, state = checkpoints.restore_newest(run.abstract_state)
    pin_manifests(
      workdir,
      train_split,
      eval_split,
      resumed=state is not None,
      write=jax.process_index() == 0,
    )
    if state is not None:
      logging.info("continuing from the checkpoint of step %d", start)
      if config.init_from:
        logging.info("init_from=%s is not used again", config.init_from)
    else:
      state = run.init(jax.random.key(config.seed))
    writer.truncate_after(start)
    progress = Progress(
      total_steps=total,
      start_step=start,
      steps_per_epoch=epoch,
      clips_per_step=config.data.batch_size,
      # A backward pass costs twice the forward pass.
      flops_per_clip=6 * run.multiply_adds,
      peak_flops=None if peak is None else peak * jax.device_count(),
    )

    # --- the loop
    evaluation, stopped = None, False
    began = time.perf_counter()
    host, hosts = batch_part(run.mesh)
    alone = jax.process_count() == 1
    with (
      Watchdog(0 if alone else config.train.stall_seconds),
      train_batches(
        train_split,
        config.data,
        seed=config.seed,
        start_step=start,
        micro_batch=micro_batch,
        host=host,
        hosts=hosts,
      ) as host_batches,
      DevicePrefetch(host_batches, run.mesh) as batches,
    ):
      step, unchecked = start, None
      while step < total and not stopped:
        state, metrics = run.train_step(state, next(batches))
        step += 1
        logs = step % config.train.log_every_steps == 0 or step == total
        evaluates = step % eval_every == 0 or step == total
        saves = step % save_every == 0 or step == total
        stopped = signal.should_stop(step)
        if unchecked is not None:
          finite(step - 1, unchecked)  # of a step that has ended
        unchecked = metrics
        if logs or evaluates or saves or stopped:
          finite(step, metrics)
          unchecked = None
        if logs:
          rates = progress.update(step, metrics, waited=batches.waited)
          if config.train.nonfinite == "skip":
            rates["skipped"] = finite.skipped
          rates |= host_batches.bad.metrics()
          writer.write(step, {f"train/{k}": v for k, v in rates.items()})
        with progress.paused():
          if evaluates:
            state = refine(state)
            evaluation = evaluate(state.eval_params, state.stats)
            writer.write(step, evaluation.metrics)
            progress.note(f"step {step}: {evaluation.describe()}")
          if saves or stopped:
            checkpoints.save(
              step,
              state,
              evaluation.metrics if evaluates and evaluation else None,
              wait=stopped,
            )

    # --- results
    if stopped and step < total:
      return {"name": config.name, "stopped": True, "steps": step}
    if evaluation is None:  # the run had ended before
      evaluation = evaluate(state.eval_params, state.stats)
    return write_results(
      workdir, config, run, evaluation, eval_split, step=step, began=began
    )


def evaluate_only(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
  """Evaluates the best checkpoint of a work directory, else its newest.

  Args:
    config: complete configuration; its model must be the checkpoint's.
    workdir: folder with `checkpoints`.

  Returns:
    The summary that is also written to summary.json.

  Raises:
    ValueError: if there is no checkpoint, or it does not fit the model.
  """
  train_split, eval_split = _prepare(config, workdir)
  epoch = count_steps_per_epoch(
    train_split, config.data.batch_size, _micro_batch(config)
  )
  run = build(config, in_steps("train.", config.train, epoch), epoch)
  with _open_checkpoints(workdir, config) as checkpoints:
    step = checkpoints.best_step() or checkpoints.latest_step()
    if step is None:
      raise ValueError(
        f"{workdir} has no checkpoint to evaluate; train first, or name the "
        "work directory of a training run"
      )
    state = checkpoints.restore(run.abstract_state, step)
  began = time.perf_counter()
  evaluate = make_evaluator(run.definition, config, eval_split, run.mesh)
  evaluation = evaluate(state.eval_params, state.stats)
  logging.info("step %d: %s", step, evaluation.describe())
  return write_results(
    workdir, config, run, evaluation, eval_split, step=step, began=began
  )


def _prepare(
  config: Config, workdir: pathlib.Path
) -> tuple[Manifest, Manifest]:
  """Makes the work directory and returns the training and evaluation split."""

  def prepare() -> tuple[Manifest, Manifest]:
    if jax.process_index() == 0:
      prepare_workdir(workdir, config)
    elif not (workdir / "config.json").exists():
      raise OSError(
        f"process {jax.process_index()} does not see what process 0 has "
        f"written to {workdir}: --workdir must be on a file system that all "
        "machines share"
      )
    return open_splits(config, workdir)  # which may make the motion clips

  return in_turn(prepare)


def _micro_batch(config: Config) -> int | None:
  """Returns the clips of a micro-batch if epochs are to be kept apart."""
  if not config.train.partial_groups:
    return None
  return micro_batch_size(config.data.batch_size, config.train.accumulate)


def _open_checkpoints(workdir: pathlib.Path, config: Config) -> Checkpoints:
  return Checkpoints(
    workdir / "checkpoints",
    keep=config.checkpoint.keep,
    best_metric=config.checkpoint.best,
  )
