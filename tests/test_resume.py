"""Runs that are stopped and continued equal one that is not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from absl import app, flags
from orbax.checkpoint import v1 as ocp

from tests import on_devices
from vidjax import main
from vidjax.data.motion import write_motion_clips
from vidjax.train.writers import MetricWriter

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 12
SAVE_EVERY = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("resume") / "motion"
  return write_motion_clips(root, train_clips=48, val_clips=12, size=48)


def command(workdir, clips, *more: str) -> list[str]:
  return [
    sys.executable,
    "-m",
    "vidjax.main",
    "--config=configs/xvit_motion.py:smoke",
    f"--workdir={workdir}",
    "--config.motion.train_clips=48",
    f"--config.data.root={clips}",
    f"--config.train.steps={STEPS}",
    f"--config.eval.every_steps={STEPS}",
    f"--config.checkpoint.every_steps={SAVE_EVERY}",
    "--config.train.ema_decay=0.9",
    "--config.train.mixup_alpha=0.4",
    "--config.model.drop_path=0.2",
    "--config.model.dropout_rate=0.5",
    *more,
  ]


def environment(cache, devices: int = 1) -> dict[str, str]:
  return on_devices.environment(cache, devices) | {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"
  }


def run(workdir, clips, cache, *more: str, devices: int = 1) -> dict:
  done = subprocess.run(
    command(workdir, clips, *more),
    cwd=ROOT,
    env=environment(cache, devices),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return json.loads(done.stdout.splitlines()[-1])


def kill_at(workdir, clips, cache, step: int, number: signal.Signals) -> int:
  """Starts a run that gets a signal after a step; returns its status."""
  start = f"from {__name__} import interrupted as i; i({step}, {number:d})"
  _, _, _, *options = command(workdir, clips)
  return subprocess.run(
    [sys.executable, "-c", start, *options],
    cwd=ROOT,
    env=environment(cache),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    check=False,
    timeout=300,
  ).returncode


def interrupted(step: int, number: int) -> None:
  """Runs the program with this process's options, up to a signal.

  The process sends it to itself, so it comes in time on any machine: when the
  numbers of a step are written and a checkpoint is complete.
  """
  write = MetricWriter.write

  def write_and_send(self, now, values):
    write(self, now, values)
    if now == step:
      while not saved(pathlib.Path(flags.FLAGS.workdir)):
        time.sleep(0.005)
      os.kill(os.getpid(), number)

  MetricWriter.write = write_and_send
  app.run(main.main, flags_parser=main.parse)


def last_step(workdir) -> int:
  try:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]
  except (OSError, IndexError, ValueError):
    return 0


def saved(workdir) -> bool:
  return any((workdir / "checkpoints").glob("[0-9]*/_CHECKPOINT_METADATA"))


def final_state(workdir) -> dict[str, np.ndarray]:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # no shardings are given: one device
    tree = ocp.load(
      workdir / "checkpoints" / str(STEPS), checkpointable_name="state"
    )
  return {"/".join(path): np.asarray(leaf) for path, leaf in flat(tree)}


def flat(tree, path=()):
  if isinstance(tree, dict):
    for key, value in tree.items():
      yield from flat(value, (*path, str(key)))
  else:
    yield path, tree


def losses(workdir) -> list[float]:
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [line["train/loss"] for line in lines if "train/loss" in line]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, clips, compile_cache) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp("straight")
  assert run(workdir, clips, compile_cache)["steps"] == STEPS
  return workdir


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_run_continues_bitwise(
  number, tmp_path, clips, straight, compile_cache
):
  status = kill_at(tmp_path, clips, compile_cache, 5, number)
  assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
  assert 5 <= last_step(tmp_path) < STEPS
  assert run(tmp_path, clips, compile_cache)["steps"] == STEPS
  ours, theirs = final_state(tmp_path), final_state(straight)
  assert ours.keys() == theirs.keys()
  assert any(key.startswith("params/blocks/0") for key in ours)
  for key, value in theirs.items():
    assert ours[key].tobytes() == value.tobytes(), key
  assert losses(tmp_path) == losses(straight)


@pytest.mark.parametrize("mesh", [(2, 4)])
def test_devices_do_not_change_the_losses(
  mesh, tmp_path, clips, straight, compile_cache
):
  data, fsdp = mesh
  run(
    tmp_path,
    clips,
    compile_cache,
    f"--config.mesh.fsdp={fsdp}",
    devices=data * fsdp,
  )
  np.testing.assert_allclose(losses(tmp_path), losses(straight), rtol=1e-5)


def test_evaluation_of_a_checkpoint(straight, clips, compile_cache):
  before = json.loads((straight / "eval.json").read_text())
  summary = run(straight, clips, compile_cache, "--mode=eval")
  after = json.loads((straight / "eval.json").read_text())
  assert summary["steps"] == STEPS
  assert after["confusion"] == before["confusion"]


def test_checkpoint_of_another_model(straight, clips, compile_cache):
  done = subprocess.run(
    command(straight, clips, "--config.model.depth=3"),
    cwd=ROOT,
    env=environment(compile_cache),
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert done.returncode == 1
  sentence = done.stderr.splitlines()
  assert any("params/blocks/2/attention/qkv/kernel" in x for x in sentence)
  assert "Traceback" not in done.stderr
