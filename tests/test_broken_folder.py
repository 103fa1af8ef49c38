"""Index and training of a folder of which every fifth video is broken."""

import json

import jax
import pytest

from configs.xvit_motion import get_config
from tests import oracles
from tests.data.small_videos import write_video
from vidjax.tools import index
from vidjax.train import loop

CLASSES, VIDEOS = ("jump", "run"), 10
BROKEN = (2, 7)  # of each class: empty, and cut off


@pytest.fixture
def folder(tmp_path):
  root = tmp_path / "mine"
  for name in CLASSES:
    for i in range(VIDEOS):
      path = write_video(root / name / f"{i}.mp4", 12)
      if i in BROKEN:
        path.write_bytes(path.read_bytes()[: 300 * BROKEN.index(i)])
  return root


def page(folder):
  config = get_config("smoke")
  config.data.update({"source": "manifest", "root": str(folder)})
  config.data.batch_size = config.eval.batch_size = 4
  config.data.max_bad_share = 0.5
  config.model.num_classes = len(CLASSES)
  config.train.steps = 8
  return config


def train(config, workdir):
  summary = loop.train(config, workdir)
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return summary, [x for x in map(json.loads, lines) if "train/loss" in x]


@pytest.mark.slow
def test_a_fifth_of_the_videos_is_broken(folder, tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(jax, "jit", oracles.jit)
  arguments = [str(folder), "--format=folders", f"--out={folder}"]
  index.main([*arguments, "--holdout=0.2", "--workers=1"])
  report = json.loads((folder / "report.json").read_text())
  broken = len(CLASSES) * len(BROKEN)
  assert sum(report["status"].values()) == len(CLASSES) * VIDEOS
  assert report["status"]["ok"] == len(CLASSES) * VIDEOS - broken
  # Left out of training, counted as wrong in evaluation.
  summary, steps = train(page(folder), tmp_path / "run")
  assert summary["steps"] == len(steps) == 8
  assert steps[-1]["train/bad_videos"] == 0
  known = [
    line
    for split in ("train", "val")
    for line in (folder / f"{split}.jsonl").read_text().splitlines()
    if json.loads(line).get("status", "ok") != "ok"
  ]
  assert len(known) == broken
  # Without the index they are found while they are read.
  for split in ("train", "val"):
    path = folder / f"{split}.jsonl"
    entries = [json.loads(x) for x in path.read_text().splitlines()]
    for entry in entries:
      entry.pop("status", None)
    path.write_text("".join(json.dumps(x) + "\n" for x in entries))
  with caplog.at_level("WARNING", logger="absl"):
    summary, steps = train(page(folder), tmp_path / "unindexed")
  assert summary["steps"] == 8
  found = steps[-1]["train/bad_videos"]
  assert 0 < found <= broken
  reasons = {k: v for k, v in steps[-1].items() if k.startswith("train/bad/")}
  assert sum(reasons.values()) == found
  failed = json.loads((tmp_path / "unindexed" / "eval.json").read_text())
  assert summary["eval/failed"] == len(failed["failed"])
  for name in failed["failed"]:
    assert name in caplog.text
