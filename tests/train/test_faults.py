"""Jobs whose processes are stopped or die: how they end and go on."""

import json
import pathlib
import signal

import numpy as np
import pytest

from tests.train import jobs
from vidjax.data.motion import write_motion_clips

STEPS = 12
OPTIONS = (
  f"--config.train.steps={STEPS}",
  f"--config.eval.every_steps={STEPS}",
  "--config.checkpoint.every_steps=4",
  "--config.train.ema_decay=0.9",
  # Adam would make steps of the rounding errors that are all the gradient that
  # a bias of attention's keys has.
  "--config.optimizer.name=sgd",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[str, ...]:
  root = tmp_path_factory.mktemp("faults") / "motion"
  write_motion_clips(root, **jobs.MOTION)
  return (*OPTIONS, f"--config.data.root={root}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory, options, compile_cache) -> pathlib.Path:
  """A run of one process and one device that nothing disturbs."""
  workdir = tmp_path_factory.mktemp("straight") / "run"
  (end,) = jobs.train(workdir, compile_cache, *options)
  assert end.status == 0, end.err[-2000:]
  clips = jobs.seen(workdir)
  assert sorted(clips) == list(range(1, STEPS + 1))
  epochs = [
    [clip for i in range(jobs.EPOCH) for clip in clips[first + i]]
    for first in range(1, STEPS, jobs.EPOCH)
  ]
  for epoch in epochs:  # every clip once
    assert len(epoch) == len(set(epoch)) == jobs.CLIPS
  assert set(epochs[0]) == set(epochs[1])
  return workdir


def assert_equal_runs(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  """Asserts that two runs saw the same clips and came to the same end."""
  assert jobs.seen(ours) == jobs.seen(theirs)
  for name in ("train/loss", "eval/top1", "eval/top5"):
    values = jobs.metrics(theirs, name)
    np.testing.assert_allclose(jobs.metrics(ours, name), values, rtol=1e-5)
  end = jobs.state_of(theirs, STEPS)
  found = jobs.state_of(ours, STEPS)
  assert found.keys() == end.keys()
  for name, value in end.items():
    np.testing.assert_allclose(
      found[name], value, rtol=1e-5, atol=1e-5, err_msg=name
    )


def test_others_end_when_one_is_killed_and_any_number_goes_on(
  tmp_path, options, straight, compile_cache
):
  workdir = tmp_path / "run"
  survivor, victim = jobs.train(
    workdir,
    compile_cache,
    *options,
    "--config.mesh.fsdp=2",
    "--heartbeat_seconds=20",
    processes=2,
    kill=(1, signal.SIGKILL, 6),
  )
  assert victim.status == -signal.SIGKILL
  # Ours where the collective fails; JAX's where it hangs, after the heartbeat.
  sentences = {
    1: "error: another process of the job has ended or does not answer",
    -signal.SIGABRT: "another task died",
  }
  assert survivor.status in sentences, survivor.err[-2000:]
  assert sentences[survivor.status] in survivor.err
  assert jobs.checkpoints(workdir) == [4]

  ends = jobs.train(workdir, compile_cache, *options, processes=4)
  assert [end.status for end in ends] == [0] * 4, ends
  assert "continuing from the checkpoint of step 4" in ends[0].err
  summary = json.loads(ends[0].out.splitlines()[-1])
  assert summary["steps"] == STEPS
  assert not any(end.out.rstrip().endswith("}") for end in ends[1:])
  assert_equal_runs(workdir, straight)


def test_all_save_at_one_step_when_one_is_stopped_and_a_single_one_goes_on(
  tmp_path, options, straight, compile_cache
):
  workdir = tmp_path / "run"
  ends = jobs.train(
    workdir,
    compile_cache,
    *options,
    processes=2,
    kill=(1, signal.SIGTERM, 5),
  )
  assert [end.status for end in ends] == [0, 0], ends
  stopped = json.loads(ends[0].out.splitlines()[-1])
  assert stopped["stopped"]
  assert 5 <= stopped["steps"] < STEPS
  assert jobs.checkpoints(workdir)[-1] == stopped["steps"]

  (end,) = jobs.train(workdir, compile_cache, *options, devices=2)
  assert end.status == 0, end.err[-2000:]
  assert_equal_runs(workdir, straight)
