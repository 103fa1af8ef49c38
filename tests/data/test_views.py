"""Several views of a video for one decoding, in memory that stays flat."""

import collections
import itertools
import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests.data.test_pipeline import config, take
from tests.data.videos import make
from vidjax.data.decode import Video
from vidjax.data.manifest import load_manifest
from vidjax.data.pipeline import eval_batches, train_batches


def write_data(root: pathlib.Path, entries) -> None:
  lines = [
    json.dumps({"id": f"v{i}", "path": path, "label": 0})
    for i, path in enumerate(entries)
  ]
  (root / "train.jsonl").write_text("\n".join(lines))
  (root / "labels.json").write_text(json.dumps({"classes": ["any"]}))


@pytest.mark.parametrize(
  ("sampling", "clips", "crops"),
  [("dense", 4, 3), ("strided", 3, 3), ("strided", 10, 1)],
)
def test_views_differ_and_every_packet_is_decoded_once(
  tmp_path, monkeypatch, sampling, clips, crops
):
  make(tmp_path / "a.mp4", options={"bf": "2", "g": "12"}, size=(96, 48))
  write_data(tmp_path, ["a.mp4"])
  sent = collections.Counter()
  fetch = Video._fetch

  def spy(video, group):
    sent.update(group)
    return fetch(video, group)

  def never(video):
    raise AssertionError("decoded from the start")

  monkeypatch.setattr(Video, "_fetch", spy)
  monkeypatch.setattr(Video, "_sequential", never)
  c = config(frames=4, stride=2, sampling=sampling)
  manifest = load_manifest(tmp_path, "train")
  (batch,) = take(
    eval_batches(manifest, c, batch_size=1, clips=clips, crops=crops), 1
  )
  assert set(sent.values()) == {1}
  assert len(sent) <= 60
  views = batch["video"][0]
  assert views.shape == (clips * crops, 4, 28, 28, 3)
  for a, b in itertools.combinations(views, 2):
    assert np.any(a != b)
  # Views of one clip share their frames: the crops overlap.
  if crops == 3:
    left, centre, right = views[:3].astype(int)
    offset = (56 - 28) // 2  # 96 x 48 scaled to a short side of 28
    for one, other in ((left, centre), (centre, right)):
      np.testing.assert_array_equal(
        one[:, :, offset:], other[:, :, : 28 - offset]
      )


def read_clips(root: pathlib.Path) -> None:
  """Prints the memory (MiB) after every 500 of 5,000 clips."""
  for i in range(8):
    make(root / f"{i}.mp4", n=6 + i, size=(48, 32))
  (root / "text.mp4").write_bytes(b"no video" * 100)
  (root / "short.mp4").write_bytes((root / "7.mp4").read_bytes()[:-600])
  names = [f"{i}.mp4" for i in range(8)] + ["text.mp4", "short.mp4"]
  write_data(root, names * 10)
  c = config(
    batch_size=20, crop="jitter", flip=0.5, erase=0.5, max_bad_share=1.0
  )
  with train_batches(load_manifest(root, "train"), c, seed=0) as batches:
    for _ in range(10):
      for _ in range(25):
        next(batches)
      pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
      print(pages * resource.getpagesize() / 2**20, flush=True)
    assert batches.bad.total == 20


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="needs /proc")
def test_memory_stays_flat_over_5000_clips(tmp_path):
  # In a process of its own: the tests' checks of shapes take memory.
  result = subprocess.run(
    [sys.executable, "-m", "tests.data.test_views", str(tmp_path)],
    stdout=subprocess.PIPE,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    timeout=600,
    check=True,
  )
  memory = [float(line) for line in result.stdout.split()]
  assert len(memory) == 10
  # One frame kept of each clip would be 18 MiB, one container 500.
  assert max(memory[2:]) < max(memory[:2]) + 6


if __name__ == "__main__":
  read_clips(pathlib.Path(sys.argv[1]))
