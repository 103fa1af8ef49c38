"""A run that is killed again and again ends as one that nothing disturbs."""

import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.train import jobs
from vidjax.data.motion import write_motion_clips

KILLS = 20  # at least, at random points
STEPS = 100
SAVE_EVERY = 2
SECONDS = 300  # for one start of the program

pytestmark = pytest.mark.slow

# The program, in forks of a process that has imported it: imports are most of
# the time of a start. Reads options, a JSON list a line; writes the id of the
# fork, and its status when it has ended.
PROGRAM = """
import json, os, sys
from absl import app
from vidjax import main
from vidjax.train import loop

for line in sys.stdin:
  child = os.fork()
  if not child:
    os.dup2(2, 1)
    sys.argv = ["vidjax.main", *json.loads(line)]
    app.run(main.main, flags_parser=main.parse)
  print(child, flush=True)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Program:
  """Starts the program as often as wanted, one after the other."""

  def __init__(self, cache: pathlib.Path, log: pathlib.Path):
    self._log = log.open("w")
    self._process = subprocess.Popen(
      [sys.executable, "-W", "ignore", "-c", PROGRAM],
      cwd=jobs.ROOT,
      env=jobs.environment(cache, devices=1),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._log,
    )
    self._child = 0

  def __enter__(self) -> "Program":
    return self

  def __exit__(self, *exception: object) -> None:
    if self._child:
      os.kill(self._child, signal.SIGKILL)
    self._process.kill()
    self._process.wait()
    for file in (self._process.stdin, self._process.stdout, self._log):
      file.close()

  def start(self, options: list[str]) -> None:
    self._process.stdin.write(json.dumps(options).encode() + b"\n")
    self._process.stdin.flush()
    self._child = self._number(SECONDS)

  def kill(self) -> None:
    os.kill(self._child, signal.SIGKILL)

  def status(self, seconds: float) -> int | None:
    """Returns how the program ended; None if it has not in this time."""
    status = self._number(seconds)
    if status is not None:
      self._child = 0
    return status

  def _number(self, seconds: float) -> int | None:
    ready, _, _ = select.select([self._process.stdout], [], [], seconds)
    return int(self._process.stdout.readline()) if ready else None


def random_point(
  rng: random.Random, workdir: pathlib.Path
) -> Callable[[], bool]:
  """Draws a point of a run that is not reached yet; tells if it has come."""
  folder = workdir / "checkpoints"
  step = last_step(workdir) + rng.randint(1, 3)
  save = step + -step % SAVE_EVERY
  moment = time.monotonic() + rng.uniform(0, 4)
  return rng.choice(
    [
      lambda: last_step(workdir) >= step,
      lambda: last_step(workdir) >= step,
      lambda: any(folder.glob(f"{save}.*tmp*")),  # while it is written
      lambda: (folder / str(save)).exists(),
      lambda: time.monotonic() > moment,  # while the program starts
    ]
  )


def last_step(workdir: pathlib.Path) -> int:
  try:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]
  except (OSError, IndexError, ValueError):
    return 0


def command(
  workdir: pathlib.Path, root: pathlib.Path, save_every: int = SAVE_EVERY
) -> list[str]:
  return [
    *jobs.OPTIONS,
    f"--workdir={workdir}",
    f"--config.data.root={root}",
    f"--config.train.steps={STEPS}",
    f"--config.eval.every_steps={STEPS // 2}",
    f"--config.checkpoint.every_steps={save_every}",
    "--config.model.drop_path=0.2",
    "--config.train.mixup_alpha=0.4",
    "--config.train.ema_decay=0.9",
  ]


def test_a_run_killed_at_random_points_ends_bitwise_as_one_that_is_not(
  tmp_path, compile_cache
):
  root = write_motion_clips(tmp_path / "motion", **jobs.MOTION)
  straight, killed = tmp_path / "straight", tmp_path / "killed"
  rng = random.Random(0)
  kills, reached = 0, set()
  with Program(compile_cache, tmp_path / "log") as program:
    program.start(command(straight, root, STEPS))
    assert program.status(SECONDS) == 0, (tmp_path / "log").read_text()
    killed.mkdir()
    while kills < KILLS:
      program.start(command(killed, root))
      has_come = random_point(rng, killed)
      limit = time.monotonic() + SECONDS
      while not has_come():
        status = program.status(0.002)
        assert status is None, (status, kills, (tmp_path / "log").read_text())
        assert time.monotonic() < limit, (kills, "hangs")
      time.sleep(rng.uniform(0, 0.03))
      program.kill()
      assert program.status(SECONDS) == -signal.SIGKILL
      kills += 1
      reached.add(last_step(killed))
    program.start(command(killed, root))
    assert program.status(SECONDS) == 0, (tmp_path / "log").read_text()
  assert len(reached) > KILLS // 3  # it was killed all along the way

  ours, theirs = (jobs.state_of(folder, STEPS) for folder in (killed, straight))
  assert ours.keys() == theirs.keys()
  for name, value in theirs.items():
    assert ours[name].tobytes() == value.tobytes(), name
  for name in ("train/loss", "eval/top1"):
    assert jobs.metrics(killed, name) == jobs.metrics(straight, name)
  assert not list((killed / "checkpoints").glob("*tmp*"))
