"""Where a run's numbers go: files, TensorBoard, wandb and a status line."""

import collections
import contextlib
import datetime
import importlib
import json
import math
import os
import pathlib
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from absl import logging

Numbers = Mapping[str, int | float | None]  # None: not finite
_WINDOW = 20  # updates whose speed the ETA supposes to go on


@runtime_checkable
class _TextStream(Protocol):
  """What is needed of an open text file."""

  def write(self, text: str, /) -> object: ...

  def flush(self) -> None: ...

  def isatty(self) -> bool: ...


class WriterError(OSError):
  """A file of metrics cannot be written; the message says what to do."""


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Says of an error of the file system what to do.

  Raises:
    WriterError: for every OSError within.
  """
  try:
    yield
  except OSError as error:
    raise WriterError(
      f"cannot write {path} ({error.strerror or error}): free some space or "
      "check the permissions, then start the same command again to continue "
      "from the last checkpoint, or choose another --workdir"
    ) from error


class _Output(Protocol):
  def write(self, step: int, values: Numbers) -> None: ...

  def truncate_after(self, step: int) -> None: ...

  def close(self) -> None: ...


class _JsonLines:
  """`metrics.jsonl`: one object a line, on disk as soon as it is written."""

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / "metrics.jsonl"
    with explained(self._path):
      workdir.mkdir(parents=True, exist_ok=True)
      self._file = self._path.open("a", encoding="utf-8")

  def write(self, step: int, values: Numbers) -> None:
    line = json.dumps({"step": step, **values}, allow_nan=False)
    with explained(self._path):
      self._file.write(line + "\n")
      self._file.flush()

  def truncate_after(self, step: int) -> None:
    part = self._path.with_name(self._path.name + ".part")
    with explained(self._path):
      lines = self._path.read_text(encoding="utf-8").splitlines()
      kept = [line for line in lines if _step_of(line) <= step]
      self._file.close()
      part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
      os.replace(part, self._path)
      self._file = self._path.open("a", encoding="utf-8")
    if len(kept) < len(lines):
      logging.info(
        "%s: dropped %d lines after step %d",
        self._path,
        len(lines) - len(kept),
        step,
      )

  def close(self) -> None:
    with explained(self._path):
      self._file.close()


def _step_of(line: str) -> int | float:
  """The step of a line; infinity for a line that a crash cut short."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return math.inf


class _Wandb:
  """Weights & Biases; a resumed run continues the same page."""

  def __init__(
    self, workdir: pathlib.Path, project: str, config: Mapping[str, Any]
  ):
    try:
      wandb: Any = importlib.import_module("wandb")
    except ImportError as error:
      raise ImportError(
        f"writers.wandb_project is {project!r}, but the package wandb is not "
        "installed: run `pip install 'vidjax[wandb]'`, or leave the project "
        "empty"
      ) from error
    id_file = workdir / "wandb_id"
    with explained(id_file):
      if not id_file.exists():
        id_file.write_text(secrets.token_hex(4))
      run_id = id_file.read_text()
    self._run = wandb.init(
      project=project,
      id=run_id,
      name=config.get("name"),
      config=dict(config),
      dir=str(workdir),
      resume="allow",
    )

  def write(self, step: int, values: Numbers) -> None:
    self._run.log(dict(values), step=step)

  def truncate_after(self, step: int) -> None:
    """Nothing to do: wandb ignores a step that it has seen already."""

  def close(self) -> None:
    self._run.finish()


class MetricWriter:
  """Writes numbers to `metrics.jsonl` and, if wanted, elsewhere.

  In a run of several processes only process 0 writes.

  Args:
    workdir: folder of the run.
    tensorboard: whether to write event files to `workdir/tensorboard`.
    wandb_project: project of Weights & Biases; empty for none.
    config: shown by wandb; `config["name"]` names the run.

  Raises:
    WriterError: if a file cannot be written.
    ImportError: if wandb is wanted and not installed.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    tensorboard: bool,
    wandb_project: str,
    config: Mapping[str, Any],
  ):
    self._outputs: list[_Output] = []
    if jax.process_index():
      return
    try:
      self._outputs.append(_JsonLines(workdir))
      if tensorboard:
        # Its package imports PyTorch where that is installed: two seconds.
        from vidjax.train.tensorboard import TensorBoard

        self._outputs.append(TensorBoard(workdir))
      if wandb_project:
        self._outputs.append(_Wandb(workdir, wandb_project, config))
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes what is known of a step.

    Args:
      step: optimiser steps so far.
      values: numbers, NumPy or JAX scalars by name. One that is not finite
        becomes null (metrics.jsonl) or is left out (TensorBoard).

    Raises:
      WriterError: if the disk is full or a file cannot be written.
      TypeError: if a value is no number; the message names it.
    """
    numbers = {name: _number(name, value) for name, value in values.items()}
    for output in self._outputs:
      output.write(step, numbers)

  def truncate_after(self, step: int) -> None:
    """Drops what was written after a step, which is about to run again.

    A last line that a crash cut short is dropped too.

    Raises:
      WriterError: if a file cannot be written.
    """
    for output in self._outputs:
      output.truncate_after(step)

  def close(self) -> None:
    """Closes all files.

    Raises:
      WriterError: if the last lines cannot be written.
    """
    with contextlib.ExitStack() as stack:
      for output in self._outputs:
        stack.callback(output.close)
    self._outputs = []


def _number(name: str, value: Any) -> int | float | None:
  if isinstance(value, int):
    return value
  try:
    number = float(value)
  except (TypeError, ValueError) as error:
    raise TypeError(f"metric {name!r} is {value!r}; give a number") from error
  return number if math.isfinite(number) else None


class Progress:
  """Measures the speed of a run, and shows it in one status line.

  On a terminal the line is rewritten in place; elsewhere a line is printed
  now and then. In a run of several processes only process 0 prints.

  Args:
    total_steps: the step at which the run ends.
    start_step: the step at which it starts.
    steps_per_epoch: to tell the epoch.
    clips_per_step: over all devices.
    flops_per_clip: floating-point operations of a training step on one clip.
    peak_flops: of all devices together, per second; None if not known.
    stream: where the line goes; standard error by default.
    clock: seconds.
    interval: seconds between two lines where the line is not rewritten.
  """

  def __init__(
    self,
    *,
    total_steps: int,
    start_step: int,
    steps_per_epoch: int,
    clips_per_step: int,
    flops_per_clip: int | float,
    peak_flops: int | float | None,
    stream: _TextStream | None = None,
    clock: Callable[[], float] = time.perf_counter,
    interval: int | float = 10,
  ):
    self._total = total_steps
    self._steps_per_epoch = steps_per_epoch
    self._clips_per_step = clips_per_step
    self._flops_per_clip = flops_per_clip
    self._peak_flops = peak_flops
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._interval = interval
    self._prints = jax.process_index() == 0
    self._start = start_step
    # Steps and the seconds that they took, without pauses.
    self._recent = collections.deque([(start_step, 0.0)], maxlen=_WINDOW + 1)
    self._last_time = clock()
    self._waited = self._paused = self._all_paused = 0.0
    self._printed = -math.inf

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time spent inside does not count in the speed of training."""
    start = self._clock()
    try:
      yield
    finally:
      self._paused += self._clock() - start

  def update(
    self, step: int, metrics: Mapping[str, Any], *, waited: float
  ) -> dict[str, float]:
    """Measures the steps since the last call, and shows the status line.

    Args:
      step: steps so far, more than at the last call.
      metrics: numbers of this step, on a device or not; "loss" and "lr" are
        shown.
      waited: seconds waited for data since the start of the run.

    Returns:
      `metrics` as floats and, of the time since the last call, "clips_per_s",
      "data_wait" (share of the time) and, if the peak is known, "mfu" (share
      of the peak).
    """
    # Waits for the device: the clock must be read after it.
    rates = {name: float(value) for name, value in metrics.items()}
    now = self._clock()
    last_step, trained = self._recent[-1]
    seconds = max(now - self._last_time - self._paused, 1e-9)
    rates["clips_per_s"] = (step - last_step) * self._clips_per_step / seconds
    rates["data_wait"] = min((waited - self._waited) / seconds, 1.0)
    if self._peak_flops:
      flops = rates["clips_per_s"] * self._flops_per_clip
      rates["mfu"] = flops / self._peak_flops
    self._all_paused += self._paused
    self._recent.append((step, trained + seconds))
    self._show(step, self._line(step, rates), now)
    if last_step == self._start:
      self._recent.popleft()  # the first steps include the compilation
    self._last_time, self._waited, self._paused = now, waited, 0.0
    return rates

  def note(self, text: str) -> None:
    """Prints a line of its own."""
    if self._prints:
      clear = "\x1b[K" if self._stream.isatty() else ""
      print(clear + text, file=self._stream, flush=True)

  def _show(self, step: int, line: str, now: float) -> None:
    if not self._prints:
      return
    if self._stream.isatty() and step < self._total:
      width = shutil.get_terminal_size().columns - 1
      # The cursor stays at the start, so that any other output replaces it.
      self._stream.write(f"\x1b[K{line[:width]}\r")
      self._stream.flush()
    elif step >= self._total or now - self._printed >= self._interval:
      self.note(line)
      self._printed = now

  def _seconds_left(self) -> float:
    """At the speed of the last updates, with pauses as often as so far."""
    (first, began), (step, trained) = self._recent[0], self._recent[-1]
    pause = self._all_paused / (step - self._start)
    return (self._total - step) * ((trained - began) / (step - first) + pause)

  def _line(self, step: int, rates: Mapping[str, float]) -> str:
    parts = [
      f"step {step}/{self._total}",
      f"epoch {step / self._steps_per_epoch:.2f}",
      f"ETA {datetime.timedelta(seconds=round(self._seconds_left()))}",
      *(
        f"{name} {rates[name]:.4g}" for name in ("loss", "lr") if name in rates
      ),
      f"{rates['clips_per_s']:.1f} clips/s",
      f"data wait {rates['data_wait']:.0%}",
    ]
    if "mfu" in rates:
      parts.append(f"MFU {rates['mfu']:.1%}")
    return "  ".join(parts)
