"""Real runs of one or several processes on this machine, for tests.

Every process has a time limit, after which the test kills it.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import app, flags
from orbax.checkpoint import v1 as ocp

from tests import on_devices
from vidjax.train.checkpoint import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
CLIPS = 48
BATCH = 8
EPOCH = CLIPS // BATCH
# Clips as long and as large as what the model sees: no two draws of one differ.
MOTION = {"train_clips": CLIPS, "val_clips": 12, "frames": 8, "size": 32}
OPTIONS = (
  "--config=configs/xvit_motion.py:smoke",
  "--config.model.depth=1",
  f"--config.motion.train_clips={CLIPS}",
  "--config.motion.frames=8",
  "--config.motion.size=32",
  "--config.data.flip=0",
  "--config.data.sampling=dense",
  "--config.data.stride=1",
  "--config.data.crop=jitter",
  "--config.data.jitter=(32, 32)",
  "--config.writers.tensorboard=False",
)


@dataclasses.dataclass(frozen=True)
class End:
  """How a process ended: its status, standard output and error."""

  status: int
  out: str
  err: str


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def environment(cache: pathlib.Path, devices: int) -> dict[str, str]:
  return on_devices.environment(cache, devices) | {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"
  }


@contextlib.contextmanager
def started(
  commands: list[list[str]], folder: pathlib.Path, env: dict[str, str]
) -> Iterator[list[subprocess.Popen[str]]]:
  """Starts processes that write to files, and ends them with the context."""
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as files:
    processes = []
    try:
      for i, command in enumerate(commands):
        out, err = (
          files.enter_context((folder / f"{kind}{i}").open("w"))
          for kind in ("out", "err")
        )
        processes.append(
          subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=env,
            stdout=out,
            stderr=err,
            text=True,
          )
        )
      yield processes
    finally:
      for process in processes:
        process.kill()
        process.wait()


def ends(
  processes: list[subprocess.Popen[str]], folder: pathlib.Path, seconds: float
) -> list[End]:
  """Waits for processes; one that takes too long has the status None."""
  limit = time.monotonic() + seconds
  for process in processes:
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(max(limit - time.monotonic(), 0.01))
  return [
    End(
      process.returncode,
      (folder / f"out{i}").read_text(),
      (folder / f"err{i}").read_text(),
    )
    for i, process in enumerate(processes)
  ]


def train(
  workdir: pathlib.Path,
  cache: pathlib.Path,
  *options: str,
  processes: int = 1,
  devices: int = 1,
  kill: tuple[int, int, int] = (-1, 0, 0),
  seconds: float = 240,
) -> list[End]:
  """Trains, with a record of the clips of every step.

  Args:
    workdir: of the run.
    cache: of compiled programs.
    options: of the command line.
    processes: of the job.
    devices: of each process.
    kill: number of a process, and the signal that it sends to itself after a
      step: `(process, signal, step)`.
    seconds: after which processes are killed.
  """
  port = free_port()
  commands = []
  for i in range(processes):
    number, last = map(int, kill[1:]) if kill[0] == i else (0, 0)
    start = f"from {__name__} import recorded as r; r({number}, {last})"
    several = [
      f"--coordinator=localhost:{port}",
      f"--num_processes={processes}",
      f"--process_id={i}",
    ]
    commands.append(
      [
        *("-c", start, *OPTIONS, f"--workdir={workdir}"),
        *(several if processes > 1 else []),
        *options,
      ]
    )
  logs = workdir.with_name(f"{workdir.name}-logs")
  with started(commands, logs, environment(cache, devices)) as running:
    return ends(running, logs, seconds)


def recorded(number: int, last: int) -> None:
  """Runs the program with this process's options, noting the clips it sees.

  Args:
    number: of a signal that the process sends to itself.
    last: the step after which it does, as soon as there is a checkpoint.
  """
  from vidjax import main
  from vidjax.train import loop

  build = loop.build

  def building(*arguments: Any) -> Any:
    run = build(*arguments)

    def step(state: Any, batch: dict[str, Any]) -> Any:
      workdir = pathlib.Path(flags.FLAGS.workdir)
      now = int(state.step) + 1
      _record(workdir, now, batch)
      result = run.train_step(state, batch)
      if number and now == last:
        _wait_for_checkpoint(workdir)
        os.kill(os.getpid(), number)
      return result

    return dataclasses.replace(run, train_step=step)

  loop.build = building
  app.run(main.main, flags_parser=main.parse)


def _wait_for_checkpoint(workdir: pathlib.Path) -> None:
  limit = time.monotonic() + 60
  # While it is written its folder has a longer name.
  while time.monotonic() < limit and not checkpoints(workdir):
    time.sleep(0.01)


def _record(workdir: pathlib.Path, step: int, batch: dict[str, Any]) -> None:
  """Appends the digest of each clip of this process's devices, by row."""
  rows = {}
  for shard in batch["video"].addressable_shards:
    first = shard.index[0].start or 0
    for row, clip in enumerate(np.asarray(shard.data), first):
      rows[row] = hashlib.sha1(clip.tobytes()).hexdigest()
  line = json.dumps({"step": step, "at": time.time_ns(), "rows": rows})
  with (workdir / f"seen-{os.getpid()}.jsonl").open("a") as file:
    file.write(line + "\n")


def seen(workdir: pathlib.Path) -> dict[int, list[str]]:
  """Returns the clips of every step, sorted, of its last time."""
  found: dict[int, dict[int, str]] = collections.defaultdict(dict)
  lines = [
    json.loads(line)
    for path in workdir.glob("seen-*.jsonl")
    for line in path.read_text().splitlines()
  ]
  for line in sorted(lines, key=lambda line: line["at"]):
    found[line["step"]].update(line["rows"])
  return {step: sorted(rows.values()) for step, rows in found.items()}


def state_of(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
  """Returns the arrays of a checkpoint by path."""
  folder = workdir / "checkpoints"
  saved = ocp.metadata(str(folder / str(step)), "state").metadata
  one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device), saved
  )
  with Checkpoints(folder, keep=9, best_metric="") as checkpoints:
    tree = checkpoints.restore(abstract, step)
  return {"/".join(path): np.asarray(leaf) for path, leaf in _flat(tree)}


def _flat(tree: Any, path: tuple[str, ...] = ()) -> Iterator[Any]:
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from _flat(value, (*path, str(key)))
  else:
    yield path, tree


def metrics(workdir: pathlib.Path, name: str) -> list[float]:
  """Returns the values of a metric, in the order of the steps."""
  text = (workdir / "metrics.jsonl").read_text()
  lines = map(json.loads, text.splitlines())
  return [line[name] for line in lines if name in line]


def checkpoints(workdir: pathlib.Path) -> list[int]:
  folders = (workdir / "checkpoints").iterdir()
  return sorted(int(path.name) for path in folders if path.name.isdecimal())
