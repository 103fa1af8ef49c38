"""What the command line says about wrong input, in one sentence each."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from vidjax.data.motion import write_motion_clips
from vidjax.train import loop
from vidjax.train.loop import NonFiniteError

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = "--config=configs/xvit_motion.py:smoke"


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("main") / "motion"
  return write_motion_clips(root, train_clips=24, val_clips=12, size=48)


def main(*arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, "-m", "vidjax.main", *arguments],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
    timeout=200,
  )


@pytest.mark.parametrize(
  ("arguments", "status", "sentence"),
  [
    (
      [SMOKE, "--workdir=w", "--config.train.stps=3"],
      2,
      "unknown configuration key 'stps' Did you mean \"steps\"",
    ),
    (
      ["--config=configs/xvit_motion.py:big", "--workdir=w"],
      2,
      "this configuration has no variant 'big'",
    ),
    (["--config=configs/no.py", "--workdir=w"], 2, "configs/no.py"),
    ([SMOKE], 2, "--workdir must have a value"),
    (
      [SMOKE, "--workdir=/proc/none"],
      1,
      "the work directory /proc/none cannot be written",
    ),
    (
      ["--config=configs/xvit_k400.py", "--workdir={tmp}"],
      1,
      "data.root is empty",
    ),
    (
      [SMOKE, "--workdir={tmp}", "--coordinator=localhost:1"],
      1,
      "error: --num_processes and --process_id must be given too",
    ),
  ],
)
def test_wrong_command_line(arguments, status, sentence, tmp_path):
  done = main(*(a.format(tmp=tmp_path) for a in arguments))
  assert done.returncode == status
  assert sentence in done.stderr
  assert "Traceback" not in done.stderr


def test_sharding_is_printed_without_a_work_directory(tmp_path):
  done = main(SMOKE, "--print_sharding")
  assert done.returncode == 0, done.stderr
  assert "blocks/0/attention/qkv/kernel" in done.stdout


def smoke(clips, page="xvit_motion", **changes):
  import importlib

  config = importlib.import_module(f"configs.{page}").get_config("smoke")
  config.data.root = str(clips)
  for key, value in changes.items():
    section, _, name = key.partition("__")
    config[section][name] = value
  return config


def test_frames_that_do_not_fit_the_segments(clips, tmp_path):
  config = smoke(clips)
  config.model.temporal.segment = 3
  with pytest.raises(
    ValueError, match="8 frames does not divide into segments of 3"
  ):
    loop.train(config, tmp_path)


def test_wrong_label(clips, tmp_path):
  root = tmp_path / "data"
  root.mkdir()
  for name in ("labels.json", "val.jsonl"):
    (root / name).write_text((clips / name).read_text())
  lines = (clips / "train.jsonl").read_text().splitlines()
  wrong = json.loads(lines[0]) | {"label": 99}
  (root / "train.jsonl").write_text("\n".join([json.dumps(wrong), *lines[1:]]))
  config = smoke(root, data__source="manifest")
  with pytest.raises(
    ValueError, match=r"has label 99, but labels\.json lists 12"
  ):
    loop.train(config, tmp_path / "work")


def test_wrong_number_of_classes(clips, tmp_path):
  config = smoke(clips, data__source="manifest", model__num_classes=7)
  with pytest.raises(ValueError, match=r"model\.num_classes=12"):
    loop.train(config, tmp_path)


def test_nothing_to_evaluate(clips, tmp_path):
  with pytest.raises(ValueError, match="has no checkpoint to evaluate"):
    loop.evaluate_only(smoke(clips), tmp_path)


@pytest.mark.slow
def test_a_diverged_run_stops_and_keeps_its_checkpoint(clips, tmp_path):
  config = smoke(
    clips, train__steps=6, checkpoint__every_steps=1, eval__every_steps=6
  )
  config.schedule.update(
    {"base_lr": 1e30, "warmup_lr": 0.0, "warmup_epochs": 1.0}
  )
  config.train.clip_norm = 0.0
  with pytest.raises(NonFiniteError, match=r"step \d: loss is"):
    loop.train(config, tmp_path)
  steps = [int(x.name) for x in (tmp_path / "checkpoints").iterdir()]
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert max(steps) <= json.loads(lines[-1])["step"]
