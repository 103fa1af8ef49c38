"""Epochs that end with fewer micro-batches, and precise statistics, in a run.

20 clips are five micro-batches of 4, so an epoch is two steps of two and one
step of a single micro-batch.
"""

import json

import jax
import numpy as np
import pytest

from configs.laps_motion import get_config
from tests import oracles
from vidjax.data.motion import write_motion_clips
from vidjax.train import loop
from vidjax.train.checkpoint import Checkpoints

EPOCH = 3

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
  root = tmp_path_factory.mktemp("loop") / "motion"
  write_motion_clips(root, train_clips=20, val_clips=12, size=40)
  return root


def page(clips, steps):
  config = get_config("smoke")
  config.motion.update({"train_clips": 20, "size": 40})
  config.data.root = str(clips)
  config.data.frames = 4
  config.model.temporal.levels = (1, 2)
  config.train.update(
    {
      "epochs": steps / EPOCH,
      "steps": 0,
      "accumulate": 2,
      "partial_groups": True,
      "precise_bn_batches": 3,
    }
  )
  # Unlike a cosine, it does not depend on the length of the training.
  config.schedule.update({"name": "steps", "decay_epochs": (1,)})
  config.eval.update({"every_epochs": 1.0, "every_steps": 0})
  config.checkpoint.update({"every_epochs": 1.0, "every_steps": 0})
  return config


def run(config, workdir, monkeypatch):
  """Trains; returns refined states, evaluated statistics, checkpoints."""
  refined, evaluated = {}, []
  make, make_evaluator = loop.make_precise_statistics, loop.make_evaluator

  def recording(*arguments):
    function = make(*arguments)

    def refine(state):
      found = function(state)
      both = (state.stats, found.stats)
      refined[int(state.step)] = jax.tree.map(np.array, both)
      return found

    return refine

  def evaluating(*arguments):
    function = make_evaluator(*arguments)

    def evaluate(params, stats):
      evaluated.append(jax.tree.map(np.array, stats))
      return function(params, stats)

    return evaluate

  abstract = []
  build = loop.build
  with monkeypatch.context() as patch:
    patch.setattr(loop, "make_precise_statistics", recording)
    patch.setattr(loop, "make_evaluator", evaluating)
    patch.setattr(
      loop, "build", lambda *a: abstract.append(build(*a)) or abstract[-1]
    )
    loop.train(config, workdir)
  with Checkpoints(
    workdir / "checkpoints", keep=3, best_metric="eval/top1"
  ) as checkpoints:
    saved = {
      step: checkpoints.restore(abstract[0].abstract_state, step)
      for step in (EPOCH, checkpoints.latest_step())
    }
  return refined, evaluated, saved


def test_a_run_and_its_continuation(tmp_path, clips, monkeypatch):
  whole = tmp_path / "whole"
  refined, evaluated, saved = run(page(clips, 6), whole, monkeypatch)
  assert set(refined) == {3, 6}
  for (step, (running, precise)), seen in zip(
    refined.items(), evaluated, strict=True
  ):
    same = jax.tree.map(np.array_equal, running, precise)
    assert not any(jax.tree.leaves(same))
    equal(seen, precise)
    equal(saved[step].stats, precise)

  part = tmp_path / "part"
  run(page(clips, 3), part, monkeypatch)
  _, _, continued = run(page(clips, 6), part, monkeypatch)
  for step in (3, 6):
    equal(continued[step], saved[step])
  assert losses(whole) == losses(part)
  assert len(losses(whole)) == 6


def losses(workdir):
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [line["train/loss"] for line in lines if "train/loss" in line]


def equal(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
