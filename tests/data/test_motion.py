import json
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidjax.data import motion
from vidjax.data.manifest import load_manifest
from vidjax.data.motion import CLASSES, FLIPPED, REVERSED, render

SMALL = {"train_clips": 24, "val_clips": 12, "frames": 8, "size": 32}


def clip(label, seed, frames=8, size=32):
  rng = np.random.default_rng(seed)
  return render(label, rng, frames=frames, size=size)


def contents(root):
  files = sorted(path for path in root.rglob("*") if path.is_file())
  return {str(path.relative_to(root)): path.read_bytes() for path in files}


def decoded(path):
  with av.open(path) as container:
    frames = container.decode(video=0)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp("clips") / "motion"
  return motion.write_motion_clips(root, **SMALL, threads=1)


def test_tables():
  assert CLASSES == (
    "move_left",
    "move_right",
    "move_up",
    "move_down",
    "approach",
    "recede",
    "rotate_clockwise",
    "rotate_counter_clockwise",
    "appear",
    "vanish",
    "open",
    "close",
  )
  assert {label: label ^ 1 for label in range(12)} == REVERSED
  assert FLIPPED == {0: 1, 1: 0, 6: 7, 7: 6}


@settings(max_examples=40, deadline=None)
@given(
  label=st.integers(0, 11),
  seed=st.integers(0, 2**32),
  frames=st.integers(2, 9),
  size=st.sampled_from((16, 30, 64)),
)
def test_twin_is_the_reversed_clip(label, seed, frames, size):
  video = clip(label, seed, frames, size)
  assert video.shape == (frames, size, size, 3)
  twin = clip(REVERSED[label], seed, frames, size)
  np.testing.assert_array_equal(video[::-1], twin)
  np.testing.assert_array_equal(video, clip(label, seed, frames, size))


def test_bad_label():
  with pytest.raises(ValueError, match=r"label is 12, .* 0 to 11"):
    clip(12, 0)


# Of the coloured pixels (the rest is grey), frame by frame.
def colour(video):
  return np.ptp(video.astype(int), axis=-1) > 40


def centre(video):
  mask = colour(video)
  rows, columns = np.indices(mask.shape[1:])
  total = mask.sum((1, 2))
  return (mask * columns).sum((1, 2)) / total, (mask * rows).sum((1, 2)) / total


@pytest.mark.parametrize("seed", range(6))
def test_what_the_classes_show(seed):
  def show(name):
    return clip(CLASSES.index(name), seed, frames=16, size=64)

  x, y = centre(show("move_left"))
  assert x[-1] - x[0] < -0.3 * 64
  assert abs(y[-1] - y[0]) < 0.2 * 64
  x, y = centre(show("move_down"))
  assert y[-1] - y[0] > 0.3 * 64
  area = colour(show("approach")).sum((1, 2))
  assert area[-1] > 3 * area[0]
  area = colour(show("vanish")).sum((1, 2))
  assert area[0] > 50
  assert area[-1] == 0
  mask = colour(show("open"))
  spread = [
    np.ptp(np.nonzero(frame)[0]) + np.ptp(np.nonzero(frame)[1])
    for frame in mask
  ]
  assert spread[-1] > spread[0] + 8


@pytest.mark.parametrize("seed", range(6))
def test_rotation_is_clockwise_on_the_screen(seed):
  video = clip(CLASSES.index("rotate_clockwise"), seed, frames=16, size=64)
  video = video.astype(float)
  lit = np.ptp(video, axis=-1)
  rows, columns = np.indices(lit.shape[1:])
  angles = []
  for frame, mask in zip(lit, lit > 40, strict=True):
    # From the middle of the coloured shape to the middle of its bright part.
    bright = mask & (frame > 0.6 * frame.max())
    dx = columns[bright].mean() - columns[mask].mean()
    dy = rows[bright].mean() - rows[mask].mean()
    angles.append(np.arctan2(dy, dx))
  turn = np.unwrap(angles)
  assert 1.4 < turn[-1] - turn[0] < 4.4  # y points down: clockwise is positive


def frame_features(video):
  """The frame's pixels at 8 x 8, and their squares."""
  small = (
    video.reshape(len(video), 8, 4, 8, 4, 3)
    .mean((2, 4))
    .reshape(len(video), -1)
  )
  small = small / 255 - 0.5
  return np.concatenate([small, small**2], axis=1)


def test_order_blind_classifier_is_at_chance_within_a_pair():
  # Nearest centroid on features averaged over time. Each pair is judged on
  # 2 x 60 independent clips: deviation of the accuracy 0.5 / sqrt(120).
  hits = []
  for pair in range(0, 12, 2):
    features = np.array(
      [
        [
          frame_features(clip(label, (split, label, i))).mean(0)
          for i in range(60)
        ]
        for split in range(2)
        for label in (pair, pair + 1)
      ]
    )
    centroids, tests = features[:2].mean(1), features[2:]
    distance = ((tests[:, :, None] - centroids) ** 2).sum(-1)
    hits.append(distance.argmin(-1) == np.array([[0], [1]]))
  accuracy = np.mean(hits)
  bound = 4 * 0.5 / np.sqrt(np.size(hits))
  assert abs(accuracy - 0.5) < bound
  assert all(abs(np.mean(h) - 0.5) < 4 * 0.5 / np.sqrt(h.size) for h in hits)


def test_manifest(made):
  train, val = (load_manifest(made, split) for split in ("train", "val"))
  assert train.name == "motion"
  assert train.classes == CLASSES
  assert dict(enumerate(train.reverse)) == REVERSED
  assert {i: to for i, to in enumerate(train.flip) if to != i} == FLIPPED
  for manifest, each in ((train, 2), (val, 1)):
    labels = [clip.label for clip in manifest.clips]
    assert [labels.count(i) for i in range(12)] == [each] * 12
    for entry in manifest.clips:
      assert manifest.file(entry).is_file()
      assert CLASSES[entry.label] in entry.path
      assert (entry.frames, entry.fps, entry.width, entry.height) == (
        8,
        12,
        32,
        32,
      )


def psnr(video, want):
  return 10 * np.log10(255**2 / np.mean((video.astype(float) - want) ** 2))


def test_videos(tmp_path):
  # At the default size: chroma is halved, which blurs smaller objects.
  root = motion.write_motion_clips(tmp_path / "x", train_clips=1, val_clips=24)
  for index, entry in enumerate(load_manifest(root, "val").clips):
    rng = np.random.default_rng(np.random.SeedSequence((0, 1, index)))
    want = render(entry.label, rng, frames=16, size=64)
    video = decoded(root / entry.path)
    assert video.shape == (16, 64, 64, 3)
    assert psnr(video, want) > 28


def test_bytes_do_not_depend_on_the_threads(made, tmp_path):
  other = motion.write_motion_clips(tmp_path / "a" / "b", **SMALL, threads=4)
  assert contents(made) == contents(other)
  assert os.listdir(other.parent) == ["b"]
  seeded = motion.write_motion_clips(tmp_path / "c", **SMALL, seed=1)
  clips = "train/open/00010.mp4"
  assert contents(made)[clips] != contents(seeded)[clips]


def test_intact_set_is_kept(tmp_path, capsys):
  root = motion.write_motion_clips(tmp_path / "set", **SMALL)
  assert capsys.readouterr().err == "motion clips: 36/36\n"
  before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
  motion.write_motion_clips(root, **SMALL)
  assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
  assert not capsys.readouterr().err


def lose(root):
  (root / "val/open/00010.mp4").unlink()


def shorten(root):
  path = root / "val/open/00010.mp4"
  path.write_bytes(path.read_bytes()[:-1])


def break_stamp(root):
  (root / "motion.json").write_text("{")


@pytest.mark.parametrize("damage", [lose, shorten, break_stamp])
def test_damaged_set_is_made_again(made, tmp_path, damage):
  root = motion.write_motion_clips(tmp_path / "set", **SMALL)
  damage(root)
  motion.write_motion_clips(root, **SMALL)
  assert contents(root) == contents(made)
  assert os.listdir(tmp_path) == ["set"]


def test_other_arguments_replace_the_set(tmp_path):
  root = motion.write_motion_clips(tmp_path, **SMALL)
  motion.write_motion_clips(root, **SMALL | {"val_clips": 13})
  assert len(load_manifest(root, "val").clips) == 13
  assert (root / "val/move_left/00012.mp4").is_file()


@pytest.mark.parametrize(
  "name", ["notes.txt", "train/cat/00000.mp4", "labels.json"]
)
def test_foreign_folder_is_refused(tmp_path, name):
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("mine")
  with pytest.raises(FileExistsError, match="choose another folder"):
    motion.write_motion_clips(tmp_path, **SMALL)
  assert contents(tmp_path) == {name: b"mine"}


def test_foreign_file_in_a_set_survives(tmp_path):
  root = motion.write_motion_clips(tmp_path / "set", **SMALL)
  (root / "notes.txt").write_text("mine")
  with pytest.raises(FileExistsError, match=r"notes\.txt"):
    motion.write_motion_clips(root, **SMALL | {"seed": 1})
  motion.write_motion_clips(root, **SMALL)
  assert (root / "notes.txt").read_text() == "mine"


def test_root_is_a_file(tmp_path):
  (tmp_path / "x").write_text("mine")
  with pytest.raises(FileExistsError, match="is a file"):
    motion.write_motion_clips(tmp_path / "x", **SMALL)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError("no space left")

  monkeypatch.setattr(motion, "_encode", fail)
  with pytest.raises(OSError, match="no space left"):
    motion.write_motion_clips(tmp_path / "set", **SMALL)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"train_clips": 0}, "train_clips of the motion clips is 0: use 1 or more"),
    ({"frames": 1}, "frames .* is 1: use 2 or more"),
    ({"size": 33}, "size .* is 33: use an even number"),
    ({"size": 8}, "size .* is 8: use 16 or more"),
    ({"seed": -1}, "seed .* is -1: use 0 or more"),
  ],
)
def test_bad_arguments(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    motion.write_motion_clips(tmp_path / "x", **SMALL | change)


def test_mpeg4_without_x264(tmp_path, monkeypatch):
  monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
  root = motion.write_motion_clips(tmp_path / "x", train_clips=1, val_clips=1)
  path = root / "val/move_left/00000.mp4"
  with av.open(path) as container:
    assert container.streams.video[0].codec_context.name == "mpeg4"
  want = clip(0, np.random.SeedSequence((0, 1, 0)), 16, 64)
  assert psnr(decoded(path), want) > 28


def test_command_line_imports_no_jax(tmp_path):
  code = (
    "import sys; from vidjax.data import motion; motion.main(); "
    "assert 'jax' not in sys.modules"
  )
  flags = [f"--{name}={value}" for name, value in SMALL.items()]
  root = tmp_path / "set"
  run = [sys.executable, "-c", code, f"--root={root}", *flags]
  done = subprocess.run(run, capture_output=True, text=True, check=True)
  assert done.stdout == f"{root}\n"
  stamp = json.loads((root / "motion.json").read_text())
  assert stamp["arguments"] == SMALL | {"seed": 0}
