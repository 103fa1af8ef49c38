"""Checkpoints that fit any device topology and say what is wrong with them.

A state is written as nested dictionaries by path, so the files know nothing of
the classes (optax, flax) that hold it.
"""

import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
from absl import logging
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from vidjax.train.distributed import anywhere, from_first, in_turn

Path = tuple[str, ...]

_PARTIAL = "*.orbax-checkpoint-tmp"
# Small files without which a folder is not a checkpoint.
_REQUIRED = ("_CHECKPOINT_METADATA", "state/_METADATA")
_METRICS = "metrics/metrics"
_DAMAGED = ".damaged"
# Reasons why intact files cannot be read.
_ELSEWHERE = re.compile(
  r"RESOURCE_EXHAUSTED|PERMISSION_DENIED|Permission denied|Too many open files"
  r"|Stale file handle|Gloo|oordination service"
)


class CheckpointError(ValueError):
  """A checkpoint cannot be written, read, or does not fit the state."""


class DamagedError(CheckpointError):
  """The files of a checkpoint are not what was written.

  Attributes:
    reason: a phrase.
  """

  def __init__(self, message: str, reason: str):
    super().__init__(message)
    self.reason = reason


class Checkpoints:
  """The checkpoints of a run, as a context manager.

  Writing goes on in the background while training does; the newest few and the
  best one are kept. Folders of writes that were interrupted are ignored.

  In a job of several processes all of them make the same calls, on a file
  system that they share.

  Attributes:
    directory: one folder per checkpoint, named by its step.
  """

  def __init__(
    self, directory: str | os.PathLike[str], *, keep: int, best_metric: str
  ) -> None:
    """Opens a folder of checkpoints, which is made if needed.

    Args:
      directory: of the checkpoints.
      keep: the newest ones to keep, at least 1.
      best_metric: name among the metrics given to `save`; the checkpoint with
        the highest value (the newest of equal ones) is kept too.

    Raises:
      ValueError: if keep is less than 1.
      CheckpointError: if the folder cannot be made or read.
    """
    if keep < 1:
      raise ValueError(f"checkpoint.keep is {keep}; use at least 1")
    self.directory = pathlib.Path(directory).absolute()
    self._best_metric = best_metric
    self._swept = False
    policies = ocp.training.preservation_policies
    best = policies.BestN(
      get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
    )
    policy: Any = policies.AnyPreservationPolicy([policies.LatestN(keep), best])
    try:
      self._checkpointer = ocp.training.Checkpointer(
        str(self.directory),
        preservation_policy=policy,
        step_name_format=_CompleteFolders(),
      )
    except OSError as error:
      raise CheckpointError(
        f"the checkpoint folder {self.directory} cannot be used "
        f"({_reason(error)}): choose another work directory or check its "
        "permissions"
      ) from error

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind: Any, *exception: object) -> None:
    if kind is not None and jax.process_count() > 1:
      return  # others may never come to the end of a write
    try:
      self._finish()
    except CheckpointError as error:
      if kind is None:
        raise
      logging.error("%s", error)  # and the error of the body goes on
    finally:
      self._checkpointer.close()

  def save(
    self,
    step: int,
    state: Any,
    metrics: Mapping[str, SupportsFloat] | None = None,
    *,
    wait: bool = False,
  ) -> None:
    """Starts to write a checkpoint; the state may be donated afterwards.

    If the last write has not ended, it is waited for. An error of a background
    write is raised by the call that follows it.

    Args:
      step: its name.
      state: any tree of jax.Array (None counts as an empty tree).
      metrics: numbers, among them perhaps the one that chooses the best.
      wait: whether to return only when the checkpoint is complete.

    Raises:
      CheckpointError: if the step exists or the files cannot be written.
    """
    name = f"the checkpoint of step {step}"
    self._finish()
    if step in self._scores():
      raise CheckpointError(
        f"{name} exists already in {self.directory}; continue from it, or "
        "delete its folder"
      )
    self._sweep()
    self._attempt(name, self._probe)
    flat = _flatten(state)
    numbers: Any = {k: float(v) for k, v in (metrics or {}).items()}
    checksums: Any = {"checksums": _checksums(flat)}
    self._attempt(
      name,
      lambda: self._checkpointer.save_async(
        step,
        traverse_util.unflatten_dict(flat),
        force=True,
        metrics=numbers or None,
        custom_metadata=checksums,
      ),
    )
    if wait:
      self._attempt(name, self._checkpointer.wait)

  def latest_step(self) -> int | None:
    """Returns the newest complete step; None if there is none."""
    self._finish()
    return max(self._scores(), default=None)

  def best_step(self) -> int | None:
    """Returns the step with the highest metric; None if none has it."""
    self._finish()
    ranked = [
      (score, step)
      for step, score in self._scores().items()
      if score > -math.inf
    ]
    return max(ranked)[1] if ranked else None

  def restore_newest(self, abstract_state: Any) -> tuple[int, Any]:
    """Returns the newest intact checkpoint's step and state.

    One that is damaged is set aside, as `<step>.damaged`, if there is an
    earlier one to go on from.

    Args:
      abstract_state: as for `restore`.

    Returns:
      `(0, None)` if there is no checkpoint.

    Raises:
      CheckpointError: as `restore`.
    """
    while step := from_first(self.latest_step()):
      try:
        return step, self.restore(abstract_state, step)
      except DamagedError as error:
        if min(self._scores()) == step:
          raise
        self._set_aside(step)
        logging.warning(
          "the checkpoint of step %d is damaged (%s) and now called %d%s: "
          "continuing from an earlier one",
          step,
          error.reason,
          step,
          _DAMAGED,
        )
    return 0, None

  def _set_aside(self, step: int) -> None:
    folder = self.directory / str(step)

    def rename() -> None:
      if jax.process_index() == 0:
        folder.rename(folder.with_name(f"{step}{_DAMAGED}"))

    in_turn(rename)
    self._checkpointer.reload()

  def restore(self, abstract_state: Any, step: int | None = None) -> Any:
    """Returns the state of a checkpoint.

    Args:
      abstract_state: tree of jax.ShapeDtypeStruct whose shardings, on any
        devices, the result gets; without one: the first local device.
      step: None for the newest.

    Raises:
      CheckpointError: if there is no such checkpoint, or if it does not fit
        (every leaf that differs is named).
      DamagedError: if its files are damaged.
    """
    step = self._existing(step)
    expected = {k: _placed(v) for k, v in _flatten(abstract_state).items()}
    saved = self._read(step, lambda: self._checkpointer.metadata(step))
    if saved.metadata is None:
      raise self._damaged(step, "the list of its arrays cannot be read")
    problems = _differences(
      traverse_util.flatten_dict(saved.metadata), expected
    )
    if problems:
      raise CheckpointError(
        f"the checkpoint of step {step} in {self.directory} does not fit this "
        "model and optimiser; use the configuration of its run, or another "
        "work directory:\n" + "\n".join(f"  {line}" for line in problems)
      )
    checksums = (saved.custom_metadata or {}).get("checksums", {})
    flat = self._load(step, expected, checksums)
    structure = jax.tree.structure(abstract_state)
    return structure.unflatten([flat[path] for path in expected])

  def _existing(self, step: int | None) -> int:
    newest = self.latest_step()
    chosen = newest if step is None else step
    if chosen is None or chosen not in self._scores():
      of_step = "" if chosen is None else f" of step {chosen}"
      complete = ", ".join(map(str, self._scores())) or "none"
      raise CheckpointError(
        f"there is no checkpoint{of_step} in {self.directory} (complete ones: "
        f"{complete})"
      )
    return chosen

  def _load(
    self,
    step: int,
    expected: Mapping[Path, jax.ShapeDtypeStruct],
    checksums: Mapping[str, int],
  ) -> dict[Path, jax.Array]:
    nested = traverse_util.unflatten_dict(expected)
    tree = self._read(step, lambda: self._checkpointer.load(step, nested))
    flat: Any = traverse_util.flatten_dict(tree)
    altered = [
      name
      for name, value in _checksums(flat).items()
      if value != checksums.get(name)
    ]
    if altered:
      raise self._damaged(step, f"altered arrays: {', '.join(altered)}")
    return flat

  def _score(self, metrics: Any) -> float:
    value = metrics.get(self._best_metric, math.nan)
    return -math.inf if math.isnan(value) else value

  def _scores(self) -> dict[int, float]:
    return {
      c.step: self._score(c.metrics or {})
      for c in self._checkpointer.checkpoints
    }

  def _sweep(self) -> None:
    """Removes what earlier processes were writing when they were killed.

    Not done when a folder is opened: an evaluation must not disturb a training
    that writes into the same one.
    """
    if not self._swept and jax.process_index() == 0:
      for path in self.directory.glob(_PARTIAL):
        shutil.rmtree(path, ignore_errors=True)
    self._swept = True

  def _probe(self) -> None:
    """Writes a file, as orbax waits minutes for a folder it could not make."""
    if jax.process_index() == 0:
      file = self.directory / ".probe"
      file.write_bytes(b"can be written")
      file.unlink()

  def _finish(self) -> None:
    self._attempt("the last checkpoint", self._checkpointer.wait)

  def _attempt(self, what: str, action: Callable[[], Any]) -> None:
    try:
      action()
    except Exception as error:  # orbax raises many kinds for a full disk
      raise CheckpointError(
        f"{what} could not be written to {self.directory} ({_reason(error)}): "
        "free space or check permissions and run the same command again; "
        "complete checkpoints are not affected"
      ) from error

  def _read(self, step: int, action: Callable[[], Any]) -> Any:
    result, failure = None, None
    try:
      result = action()
    except Exception as error:  # orbax raises many kinds for damaged files
      failure = error
    failed = anywhere(failure is not None)
    if not failed:
      return result
    reason = _reason(failure) if failure else f"seen by process {failed[0]}"
    if _ELSEWHERE.search(str(failure)):
      raise CheckpointError(
        f"the checkpoint of step {step} in {self.directory} cannot be read "
        f"({reason}): mend that and start the same command again"
      ) from failure
    raise self._damaged(step, reason) from failure

  def _damaged(self, step: int, reason: str) -> DamagedError:
    earlier = [s for s in self._scores() if s < step]
    remedy = f"step {max(earlier)}" if earlier else "the beginning"
    return DamagedError(
      f"the checkpoint of step {step} is damaged ({reason}): delete "
      f"{self.directory / str(step)} to continue from {remedy}",
      reason,
    )


class _CompleteFolders:
  """Names and finds the folders of steps, by their number.

  Orbax takes every folder with a number for a checkpoint; here those without
  readable JSON files, such as half of a copy, are left out.
  """

  def __init__(self) -> None:
    self._standard = ocp.path.step.standard_name_format()
    self.build_name = self._standard.build_name
    self.find_step = self._standard.find_step

  def find_all(self, base_path: Any) -> Iterator[Any]:
    return filter(_is_complete, self._standard.find_all(base_path))


def _is_complete(found: Any) -> bool:
  try:
    for name in _REQUIRED:
      json.loads((found.path / name).read_text())
    if (found.path / _METRICS).exists():
      json.loads((found.path / _METRICS).read_text())
  except (OSError, ValueError) as error:
    logging.warning("ignoring the incomplete %s: %s", found.path, error)
    return False
  return True


def _flatten(tree: Any) -> dict[Path, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf
    for path, leaf in leaves
  }


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _differences(
  saved: Mapping[Path, Any], expected: Mapping[Path, Any]
) -> list[str]:
  """Returns one line for each leaf that is not the same on both sides."""
  lines = []
  for path in sorted({*saved, *expected}):
    name = "/".join(path)
    if path not in saved:
      lines.append(f"{name}: missing in the checkpoint")
    elif path not in expected:
      lines.append(f"{name}: only in the checkpoint")
    else:
      there, here = saved[path], expected[path]
      for what in ("shape", "dtype"):
        a, b = getattr(there, what), getattr(here, what)
        if a != b:
          lines.append(f"{name}: {what} {a} in the checkpoint, {b} here")
  return lines


def _checksums(flat: Mapping[Path, Any]) -> dict[str, int]:
  """Returns a number per array that any changed bit changes."""
  named = {"/".join(path): leaf for path, leaf in flat.items()}
  sums = jax.device_get(_bit_sums(jax.block_until_ready(named)))
  return {name: int(value) for name, value in sums.items()}


# One program, not one for each array: simulated devices share a thread pool
# that many collectives at once would exhaust.
@jax.jit
def _bit_sums(named: dict[str, jax.Array]) -> dict[str, jax.Array]:
  return {name: _bit_sum(x) for name, x in named.items()}


def _bit_sum(x: jax.Array) -> jax.Array:
  """Returns the sum of the bit patterns modulo 2^32.

  Sums of integers do not depend on their order, hence not on the sharding.
  """
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * min(x.dtype.itemsize, 4)}")
  return bits.sum(dtype=jnp.uint32)


def _reason(error: BaseException) -> str:
  """Returns the cause at the root of an error, as a short phrase."""
  while error.__cause__ is not None:
    error = error.__cause__
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  by_system = re.search(r": ([^:\[]+) \[os_error_code", str(error))
  if by_system:
    return by_system[1]
  return (str(error).splitlines() or [type(error).__name__])[0][:200]
