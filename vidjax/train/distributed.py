"""A job of several processes: how it starts and ends, and who does what."""

import contextlib
import itertools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax

# Its barrier and its table of keys and values are not public.
import jax._src.distributed as coordination
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Int

from vidjax.train.sharding import BATCH

T = TypeVar("T")

_STOP = "vidjax/stop"  # of the job's table of keys and values
_STEPS_AHEAD = 4
_TEXT_BYTES = 2000  # of an error that process 0 tells the others
_PATIENCE_SECONDS = 6 * 3600  # with what process 0 does ahead of the others
_meetings = itertools.count()
# What collectives and JAX's coordination service say when a peer is gone.
_LOST = re.compile(
  r"Gloo\b.*failed|NCCL|RCCL|coordination service|CoordinationService"
  r"|heartbeat|[Bb]arrier timed out",
  re.DOTALL,
)


class JobError(ValueError):
  """A job of several processes cannot start, or another process failed."""


class LostProcessError(RuntimeError):
  """Another process of the job has ended or does not answer."""


def _hosts(value: str) -> int:
  return len(value.split(","))


# Variables of launchers that `jax.distributed.initialize` understands, and how
# many processes they tell of. Others (Kubernetes, virtual machines with a TPU)
# can only be asked, which takes time where there is nothing to find.
_LAUNCHERS: dict[str, Callable[[str], int]] = {
  "SLURM_NTASKS": int,
  "OMPI_COMM_WORLD_SIZE": int,
  "TPU_PROCESS_ADDRESSES": _hosts,
  "TPU_WORKER_HOSTNAMES": _hosts,
  "MEGASCALE_NUM_SLICES": int,
}
# Without these a variable above does not tell of this very process.
_NEEDS = {
  "SLURM_NTASKS": "SLURM_STEP_NODELIST",
  "OMPI_COMM_WORLD_SIZE": "OMPI_MCA_orte_hnp_uri",
}


def launched(environment: Mapping[str, str] = os.environ) -> str | None:
  """Returns the variable that tells of a job of several processes, if any.

  Known are a Slurm step (`srun`), Open MPI's `mpirun` and TPU pods on GKE.
  """
  for name, count in _LAUNCHERS.items():
    value = environment.get(name, "")
    if not value or _NEEDS.get(name, name) not in environment:
      continue
    with contextlib.suppress(ValueError):
      if count(value) > 1:
        return name
  return None


@contextlib.contextmanager
def job(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  detect: bool = False,
  start_seconds: int = 300,
  heartbeat_seconds: int = 100,
) -> Iterator[None]:
  """Joins the processes of a job, for the time of a context.

  Has to be entered before anything uses a device. Without a coordinator,
  `detect` or a launcher (`launched`) the process stays on its own.

  A process that leaves the context by an error ends at once: the others may
  wait for it in a collective, in which case it must not wait for them.

  Args:
    coordinator: HOST:PORT, on which process 0 listens.
    num_processes: of the job.
    process_id: of this one, from 0.
    detect: whether to ask JAX for the three numbers (Slurm, Open MPI, TPU pods,
      Kubernetes).
    start_seconds: to wait for all processes.
    heartbeat_seconds: after which a silent process counts as lost, and ends
      the others.

  Raises:
    JobError: if the job cannot be joined.
  """
  given = {
    "--coordinator": coordinator,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  explicit = _explicit(given)
  if not explicit and not detect and not launched():
    yield
    return
  _initialize(
    start_seconds,
    coordinator_address=coordinator,
    num_processes=num_processes,
    process_id=process_id,
    cluster_detection_method="deactivate" if explicit else None,
    heartbeat_timeout_seconds=heartbeat_seconds,
  )
  try:
    yield
  except SystemExit as error:
    _leave(error.code if isinstance(error.code, int) else 1)
  except BaseException:
    traceback.print_exc()
    _leave(1)
  jax.distributed.shutdown()


def _explicit(given: Mapping[str, str | int | None]) -> bool:
  """Checks the three flags; returns whether they are there."""
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    return False
  if missing:
    raise JobError(
      f"{' and '.join(missing)} must be given too: {', '.join(given)} belong "
      "together, in every process of the job"
    )
  address, count, number = given.values()
  if not re.fullmatch(r".+:\d+", str(address)):
    raise JobError(
      f"--coordinator is {address!r}; give HOST:PORT of process 0, e.g. "
      "10.0.0.1:1234"
    )
  if not 0 <= int(number or 0) < int(count or 0):
    raise JobError(
      f"--process_id is {number} of --num_processes={count}; use 0 to the "
      "number of processes less one"
    )
  return True


def _initialize(start_seconds: int, **arguments: Any) -> None:
  # Collectives of two programs at once could meet those of the other in
  # another process.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  # JAX aborts when its own time is up: this one comes before, with a sentence.
  late = threading.Timer(start_seconds, _alone, (start_seconds,))
  late.daemon = True
  late.start()
  try:
    jax.distributed.initialize(
      **arguments, initialization_timeout=2 * start_seconds + 10
    )
  except Exception as error:  # of many kinds
    reason = str(error).strip().splitlines()[0]
    where = arguments["coordinator_address"]
    named = f" at --coordinator={where}" if where else ""
    raise JobError(
      f"this process cannot join the job{named} ({reason}): start all "
      "processes with the same --coordinator and --num_processes, or leave "
      "--distributed out on a single machine"
    ) from error
  finally:
    late.cancel()
  logging.info(
    "process %d of %d, %d of %d devices",
    jax.process_index(),
    jax.process_count(),
    jax.local_device_count(),
    jax.device_count(),
  )


def _alone(seconds: int) -> NoReturn:
  print(
    f"error: the processes of the job did not find each other in {seconds} s: "
    "start all of them, with the same --coordinator and --num_processes and a "
    "--process_id each, or raise --start_seconds",
    file=sys.stderr,
  )
  _leave(1)


def _leave(status: int) -> NoReturn:
  """Ends the process without JAX's wait for the others."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def in_turn(action: Callable[[], T]) -> T:
  """Returns what an action does, which process 0 does ahead of the others.

  Raises:
    JobError: in the other processes, if it failed in process 0.
  """
  if jax.process_index():
    _raise_if_told(None)
    return action()
  try:
    result = action()
  except Exception as error:
    with contextlib.suppress(JobError):  # which is for the others
      _raise_if_told(str(error) or type(error).__name__)
    raise
  _raise_if_told("")
  return result


def _raise_if_told(mine: str | None) -> None:
  """Shares the error of process 0, empty for none, among all processes."""
  if jax.process_count() == 1:
    return
  _meet()
  text = np.frombuffer((mine or "").encode()[:_TEXT_BYTES], np.uint8)
  padded = np.pad(text, (0, _TEXT_BYTES - len(text)))
  told = np.asarray(multihost_utils.broadcast_one_to_all(padded))
  text = told.astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")
  if text:
    raise JobError(f"process 0: {text}")


def _meet() -> None:
  """Waits for all processes, for as long as they live.

  Not a collective: those of CPUs give up after half a minute.
  """
  client: Any = coordination.global_state.client
  client.wait_at_barrier(
    f"vidjax/{next(_meetings)}", timeout_in_ms=1000 * _PATIENCE_SECONDS
  )


def from_first(value: int | None) -> int | None:
  """Returns the number that process 0 gives, in all processes."""
  if jax.process_count() == 1:
    return value
  mine = np.array(-1 if value is None else value, np.int32)
  number = int(multihost_utils.broadcast_one_to_all(mine))
  return None if number < 0 else number


def anywhere(condition: bool) -> list[int]:
  """Returns the processes in which a condition holds; all have to ask."""
  if jax.process_count() == 1:
    return [0] if condition else []
  held = multihost_utils.process_allgather(np.array(condition))
  return np.flatnonzero(held).tolist()


def agreed_stop(step: int, wanted: bool) -> bool:
  """Returns whether all processes of a job stop after this step.

  Has to be called by all after every step, none of which starts before the last
  but one has ended on all devices: no process is then more than three calls
  ahead of process 0, which chooses the step. JAX's own
  `reached_preemption_sync_point` lets a process pass its step if the notice
  comes in the very moment of the call, and the others wait for it for ever.

  Args:
    step: that has been made.
    wanted: whether this process has been asked to stop.
  """
  client = coordination.global_state.client
  assert client is not None  # in a job
  process = jax.process_index()
  said = dict(client.key_value_dir_get(_STOP))
  last = said.pop(f"{_STOP}/last", None)
  if last is None and process == 0 and (wanted or said):
    last = str(step + _STEPS_AHEAD)
    client.key_value_set(f"{_STOP}/last", last)
  elif last is None and wanted:
    client.key_value_set(f"{_STOP}/{process}", "wanted", allow_overwrite=True)
  return last is not None and step >= int(last)


def batch_part(mesh: Mesh) -> tuple[int, int]:
  """Returns which of how many equal parts of each batch this process loads.

  That follows from the rows that its devices hold: processes whose devices
  share the same rows (they split the frames or the channels) load the same
  part. If the rows of two processes are neither equal nor disjoint, all load
  the whole batch, which is said in the log.

  Args:
    mesh: of all devices.

  Returns:
    `(part, parts)` as `host` and `hosts` of `vidjax.data.pipeline`.
  """
  owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
  rows = rows_by_process(owners, mesh.axis_names, BATCH[0])
  return part_of_rows(rows, jax.process_index())


def rows_by_process(
  owners: Int[np.ndarray, "..."],
  axis_names: Sequence[str],
  batch_axes: Sequence[str],
) -> dict[int, frozenset[int]]:
  """Returns the blocks of rows that the devices of each process hold.

  Args:
    owners: the process of each device, in the shape of the mesh.
    axis_names: of the mesh.
    batch_axes: those that split the batch, the slowest first. A block is what
      one device holds.
  """
  shape = dict(zip(axis_names, owners.shape, strict=True))
  sizes = tuple(shape[name] for name in batch_axes)
  held: dict[int, set[int]] = {}
  for place, process in np.ndenumerate(owners):
    where = dict(zip(axis_names, place, strict=True))
    block = np.ravel_multi_index([where[name] for name in batch_axes], sizes)
    held.setdefault(int(process), set()).add(int(block))
  return {process: frozenset(blocks) for process, blocks in held.items()}


def part_of_rows(
  rows: Mapping[int, frozenset[int]], process: int
) -> tuple[int, int]:
  """Returns which of how many equal parts holds the rows of a process.

  Args:
    rows: blocks of rows by process.
    process: one of them.

  Returns:
    `(part, parts)`; `(0, 1)`, the whole, if the rows of two processes are
    neither equal nor disjoint.
  """
  parts = sorted(set(rows.values()), key=min)
  count = sum(map(len, parts))
  if count > len(frozenset().union(*parts)) or len({*map(len, parts)}) > 1:
    logging.warning(
      "each process reads whole batches, because the mesh gives them rows that "
      "overlap (%s); let the devices of a process divide mesh.frames x "
      "mesh.tensor, or be a multiple of it",
      {p: sorted(held) for p, held in sorted(rows.items())},
    )
    return 0, 1
  return parts.index(rows[process]), len(parts)


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
  """Turns errors of a collective whose peer is gone into one sentence.

  Raises:
    LostProcessError: in the place of such errors, in a job of several
      processes.
  """
  try:
    yield
  except Exception as error:
    if jax.process_count() == 1 or not _LOST.search(str(error)):
      raise
    reason = str(error).strip().splitlines()[0][:160]
    raise LostProcessError(
      f"another process of the job has ended or does not answer ({reason}): "
      "see its own log, and start the same command again, on any number of "
      "processes, to continue from the last checkpoint"
    ) from error


_progress = threading.Event()


def progressed() -> None:
  """Notes that this process has got on, for `Watchdog`."""
  _progress.set()


class Watchdog:
  """Ends a process that does not get on, as a context manager.

  JAX ends the others when a process of a job dies; this is for a job whose
  processes are all alive while one of them, say, waits for its storage, and
  the others wait for it in a collective.

  Args:
    seconds: without a call of `progressed`, after which the process ends (at
      the latest after twice as many); 0 for never.
  """

  def __init__(self, seconds: int | float):
    self._seconds = seconds
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name="watchdog", daemon=True
    )

  def __enter__(self) -> "Watchdog":
    if self._seconds:
      progressed()
      self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._stop.set()
    if self._thread.ident is not None:
      self._thread.join()

  def _watch(self) -> None:
    while not self._stop.wait(self._seconds):
      if not _progress.is_set():
        self._end()
      _progress.clear()

  def _end(self) -> None:
    print(
      f"error: process {jax.process_index()} has made no step for "
      f"{self._seconds:g} s (it is in {_place()}): it, its data or another "
      "process hangs; start the same command again to continue from the last "
      "checkpoint, or raise train.stall_seconds",
      file=sys.stderr,
    )
    _leave(1)


def _place() -> str:
  """Returns the innermost line of this package in the main thread."""
  main = threading.main_thread().ident
  stack = traceback.extract_stack(sys._current_frames().get(main or 0))
  ours = [f for f in stack if f"{os.sep}vidjax{os.sep}" in f.filename]
  where = (ours or stack)[-1]
  return f"{os.path.basename(where.filename)}:{where.lineno}"
