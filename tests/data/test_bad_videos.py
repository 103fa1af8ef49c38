import pathlib
import threading

import numpy as np
import pytest

from tests.data.pipeline_data import assert_same, config, take, write_data
from vidjax.data import pipeline
from vidjax.data.decode import VideoError
from vidjax.data.manifest import Clip, Manifest
from vidjax.data.pipeline import (
  BadVideos,
  TooManyBadVideosError,
  eval_batches,
  train_batches,
)


def test_bad_videos_are_replaced_and_counted(tmp_path, caplog):
  bad = (1, 4)  # an empty file, and a text file
  manifest = write_data(tmp_path, bad=bad)
  c = config(max_bad_share=0.5)
  stream = train_batches(manifest, c, seed=0)
  with caplog.at_level("WARNING", logger="absl"):
    batches = take(stream, 10)  # four epochs
  counter = stream.bad
  labels = np.concatenate([b["label"] for b in batches])
  assert not set(labels) & set(bad)
  assert all((b["weight"] == 1).all() for b in batches)
  assert counter.counts == {"empty": 1, "not_a_video": 1}
  assert sorted(counter.keys) == ["v1", "v4"]
  assert counter.total == 2
  assert counter.share == pytest.approx(2 / 10)
  for i, name in ((1, "v1"), (4, "v4")):
    said = [
      r.getMessage() for r in caplog.records if repr(name) in r.getMessage()
    ]
    assert len(said) == 1
    assert f"{i}.mp4" in said[0]
  assert_same(take(train_batches(manifest, c, seed=0), 10), batches)


def test_nothing_but_bad_videos_gives_zeros_of_weight_zero(tmp_path):
  manifest = write_data(tmp_path, count=4, bad=range(4))
  c = config(max_bad_share=1.0)
  (batch,) = take(train_batches(manifest, c, seed=0), 1)
  assert (batch["weight"] == 0).all()
  assert not batch["video"].any()
  assert sorted(batch["label"]) == [0, 1, 2, 3]


def test_too_many_bad_videos_stop_the_run(tmp_path):
  manifest = write_data(tmp_path, bad=(0, 3))
  message = r"2 of the \d+ videos of split 'train'.*data\.max_bad_share"
  stream = train_batches(manifest, config(), seed=0)
  with pytest.raises(TooManyBadVideosError, match=message):
    take(stream, 4)


def test_one_bad_video_never_stops_the_run(tmp_path):
  manifest = write_data(tmp_path, bad=(3,))
  batches = take(train_batches(manifest, config(), seed=0), 6)
  assert all((b["weight"] == 1).all() for b in batches)


def test_the_bad_share_is_not_judged_too_early():
  clip = Clip("x", "x.mp4", 0)
  error = VideoError("x.mp4", "empty")
  root = pathlib.Path("data")
  clips = (clip,) * 5000
  bad = BadVideos(
    Manifest(root, "train", "d", clips, ("a",), (0,), (0,)), max_share=0.01
  )
  for index in range(10):  # all of the first ten: 1 % of a thousand
    with bad.read(index, clip):
      assert bad.reading == ["x"]
    bad.add(index, clip, error)
    bad.add(index, clip, error)
  assert bad.total == 10
  assert bad.share == 1
  assert bad.reading == []
  assert bad.metrics() == {"bad_videos": 10, "bad/empty": 10}
  with (
    pytest.raises(TooManyBadVideosError, match="11 of the 11 videos"),
    bad.read(10, clip),
  ):
    bad.add(10, clip, error)
  assert bad.reading == []


def test_a_batch_that_does_not_come_is_said(tmp_path, monkeypatch, caplog):
  manifest = write_data(tmp_path)
  go_on = threading.Event()
  whole = pipeline.open_clip

  def stuck(path, decoder):
    go_on.wait(20)
    return whole(path, decoder)

  monkeypatch.setattr(pipeline, "open_clip", stuck)
  monkeypatch.setattr(pipeline, "_PATIENCE", 0.2)
  with (
    caplog.at_level("WARNING", logger="absl"),
    train_batches(manifest, config(), seed=0) as batches,
  ):
    threading.Timer(1.0, go_on.set).start()
    next(batches)
  assert "no batch for 0 s; being read: " in caplog.text
  assert any(f"{clip.id!r}" in caplog.text for clip in manifest.clips)


def test_eval_counts_bad_videos_as_failed(tmp_path):
  manifest = write_data(tmp_path, count=5, bad=(1, 2))
  with eval_batches(
    manifest, config(), batch_size=4, clips=1, crops=3
  ) as stream:
    rows = [*stream]
    bad = stream.bad
  video = np.concatenate([b["video"] for b in rows])
  mask = np.concatenate([b["mask"] for b in rows])
  assert mask.tolist() == [1] * 5 + [0] * 3
  assert [bool(v.any()) for v in video[:5]] == [True, False, False, True, True]
  assert bad.counts == {"empty": 1, "not_a_video": 1}
  assert sorted(bad.keys) == ["v1", "v2"]
  assert bad.share == pytest.approx(2 / 5)
