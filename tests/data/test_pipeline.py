import collections
import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.data.pipeline_data import (
  CLASSES,
  FRAMES,
  HEIGHT,
  WIDTH,
  assert_same,
  config,
  take,
  write_data,
)
from vidjax.data import augment, pipeline
from vidjax.data.decode import Video, decode
from vidjax.data.geometry import eval_crops, resized
from vidjax.data.imgaug import ImgAug
from vidjax.data.manifest import load_manifest
from vidjax.data.pipeline import (
  BadVideos,
  eval_batches,
  steps_per_epoch,
  train_batches,
)
from vidjax.data.sampling import segments_eval, strided_eval, strided_train


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp("data"))


CROPPED = ["imgaug", "rand-m7-n4-mstd0.5-inc1", "moco_v2", "rand16-n2-m27"]
RANDOM = {"flip": 0.5, "erase": 0.5, "crop": "jitter"}


def test_train_batch(manifest):
  (batch,) = take(train_batches(manifest, config(), seed=0), 1)
  shapes = {key: (x.shape, x.dtype.name) for key, x in batch.items()}
  assert shapes == {
    "video": ((4, 3, 28, 28, 3), "uint8"),
    "label": ((4,), "int32"),
    "erase": ((4, 4), "int32"),
    "weight": ((4,), "float32"),
  }
  assert (batch["weight"] == 1).all()
  assert (batch["erase"] == 0).all()
  for video, label in zip(batch["video"], batch["label"], strict=True):
    # The grey at the right edge names the clip, and tells the frames apart.
    grey = video[:, :, -1].mean((1, 2))
    assert np.all(np.abs(grey - 10 - 8 * label - 2.5) < 5)
    assert np.all(np.diff(grey) > -0.5)
    assert np.all(video[:, :, 0].mean((1, 2)) > grey + 40)


def test_every_epoch_is_another_permutation(manifest):
  batches = take(train_batches(manifest, config(batch_size=5), seed=1), 6)
  labels = np.concatenate([b["label"] for b in batches]).reshape(3, 10)
  for epoch in labels:
    assert sorted(epoch) == list(range(10))
  assert len({tuple(epoch) for epoch in labels}) == 3
  other = take(train_batches(manifest, config(batch_size=5), seed=2), 2)
  assert not np.array_equal(
    labels[0], np.concatenate([b["label"] for b in other])
  )


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_any_number_of_threads_gives_the_same_batches(manifest, threads):
  want = take(train_batches(manifest, config(**RANDOM), seed=3), 6)
  c = config(**RANDOM, threads=threads, prefetch=threads)
  assert_same(take(train_batches(manifest, c, seed=3), 6), want)


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_gives_the_same_batches(manifest, hosts):
  c = config(**RANDOM)
  want = take(train_batches(manifest, c, seed=3), 4)
  parts = [
    take(train_batches(manifest, c, seed=3, host=h, hosts=hosts), 4)
    for h in range(hosts)
  ]
  for step, whole in enumerate(want):
    for key, value in whole.items():
      joined = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(joined, value)


@pytest.mark.parametrize("start", [1, 4, 7])
def test_resume_is_exact(manifest, start):
  c = config(**RANDOM)
  want = take(train_batches(manifest, c, seed=3), 9)  # 36 clips of 10 videos
  rest = train_batches(manifest, c, seed=3, start_step=start)
  assert_same(take(rest, 9 - start), want[start:])


def test_draws_differ_between_epochs_and_clips(manifest):
  batches = take(train_batches(manifest, config(**RANDOM), seed=3), 10)
  boxes = np.concatenate([b["erase"] for b in batches])
  drawn = boxes[boxes.any(1)]
  assert 8 < len(drawn) < 32  # 40 clips, half of them erased
  assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_flip_changes_picture_and_label(manifest):
  straight = take(train_batches(manifest, config(), seed=0), 5)
  mirrored = take(train_batches(manifest, config(flip=1.0), seed=0), 5)
  for a, b in zip(straight, mirrored, strict=True):
    np.testing.assert_array_equal(
      b["label"], [x ^ 1 if x < 4 else x for x in a["label"]]
    )
    left, right = b["video"][..., 0, 0], b["video"][..., -1, 0]
    assert np.all(right.astype(int) > left.astype(int) + 30)


def test_some_labels_are_never_flipped(manifest):
  never = (1, 5, 9)
  straight = take(train_batches(manifest, config(), seed=0), 5)
  plain = take(train_batches(manifest, config(flip=1.0), seed=0), 5)
  c = config(flip=1.0, no_flip_labels=never)
  got = take(train_batches(manifest, c, seed=0), 5)
  kept = 0
  for a, b, mixed in zip(straight, plain, got, strict=True):
    for row, label in enumerate(a["label"]):
      kept += label in never
      want = a if label in never else b
      for key, value in mixed.items():
        np.testing.assert_array_equal(value[row], want[key][row])
  assert kept >= 6  # two epochs


def test_labels_that_are_never_flipped_do_not_move_other_draws(manifest):
  boxes = [
    np.concatenate([b["erase"] for b in batches])
    for batches in (
      take(train_batches(manifest, config(**RANDOM, **labels), seed=3), 5)
      for labels in ({}, {"no_flip_labels": range(CLASSES)})
    )
  ]
  np.testing.assert_array_equal(*boxes)


def test_erase(manifest):
  (batch,) = take(train_batches(manifest, config(erase=1.0), seed=0), 1)
  for top, left, height, width in batch["erase"]:
    assert 0 < height <= 28 - top
    assert 0 < width <= 28 - left
  assert len(np.unique(batch["erase"], axis=0)) == 4


def test_auto_augment_sees_whole_frames_before_the_crop(manifest, monkeypatch):
  seen = []

  def invert(video, rng):
    seen.append((video.shape, isinstance(rng, np.random.Generator)))
    return 255 - video

  recipe = augment.Recipe(cropped=False, build=lambda seed: invert)
  monkeypatch.setitem(augment.RECIPES, "v0", recipe)
  c = config(auto_augment="v0", threads=0)
  (batch,) = take(train_batches(manifest, c, seed=0), 1)
  assert seen == [((3, HEIGHT, WIDTH, 3), True)] * 4
  (plain,) = take(train_batches(manifest, config(), seed=0), 1)
  np.testing.assert_allclose(
    batch["video"].astype(int), 255 - plain["video"].astype(int), atol=1
  )


def test_augmentation_after_the_crop_sees_the_flipped_crop(
  manifest, monkeypatch
):
  seeds, seen = [], []

  def build(seed):
    seeds.append(seed)

    def brighten_the_left(video, rng):
      seen.append((video.shape, isinstance(rng, np.random.Generator)))
      video = video.copy()
      video[:, :, :3] = 255
      return video

    return brighten_the_left

  recipe = augment.Recipe(cropped=True, build=build)
  monkeypatch.setitem(augment.RECIPES, "imgaug", recipe)
  c = config(auto_augment="imgaug", flip=1.0, threads=0)
  (batch,) = take(train_batches(manifest, c, seed=11), 1)
  assert seeds == [11]
  assert seen == [((3, 28, 28, 3), True)] * 4
  (plain,) = take(train_batches(manifest, config(flip=1.0), seed=11), 1)
  assert (batch["video"][..., :3, :] == 255).all()
  np.testing.assert_array_equal(
    batch["video"][..., 3:, :], plain["video"][..., 3:, :]
  )


@pytest.mark.parametrize("name", CROPPED)
def test_augmentation_after_the_crop_leaves_other_draws_alone(manifest, name):
  c = config(**RANDOM, auto_augment=name)
  got = take(train_batches(manifest, c, seed=3), 3)
  plain = take(train_batches(manifest, config(**RANDOM), seed=3), 3)
  for a, b in zip(got, plain, strict=True):
    for key in ("label", "erase", "weight"):
      np.testing.assert_array_equal(a[key], b[key])
    assert np.any(a["video"] != b["video"])


@pytest.mark.parametrize("seed", range(6))
def test_one_example_draw_by_draw(manifest, seed):
  """Flip, erasing, frames, crop, augmentation: in this order, per clip."""
  c = config(
    sampling="strided",
    stride=1,
    crop="resized",
    flip=0.5,
    erase=0.5,
    auto_augment="imgaug",
    no_flip_labels=(2,),
  )
  index = seed % 3
  example = pipeline._TrainClip(manifest, c, BadVideos(manifest), 9)
  got = example(index, np.random.default_rng(seed))
  rng = np.random.default_rng(seed)
  flip = rng.random() < 0.5 and index != 2
  box = np.zeros(4)
  if rng.random() < 0.5:
    box = augment.erase_box(rng, 28, 28)
  indices = strided_train(rng, FRAMES, frames=3, stride=1)
  crop = resized(rng, HEIGHT, WIDTH, size=28, short=32)
  frames = [
    crop(frame)
    for frame in decode(manifest.file(manifest.clips[index]), indices)
  ]
  video = np.stack([f[:, ::-1] if flip else f for f in frames])
  np.testing.assert_array_equal(got["video"], ImgAug(9)(video, rng))
  np.testing.assert_array_equal(got["erase"], box)
  assert got["label"] == (index ^ 1 if flip else index)


@pytest.mark.parametrize("name", ["v0", "photometric", *CROPPED])
def test_auto_augment_is_deterministic(manifest, name):
  c = config(auto_augment=name)
  runs = [take(train_batches(manifest, c, seed=5), 2) for _ in range(2)]
  assert_same(*runs)


@pytest.mark.parametrize(
  "crop", ["multiscale", "jitter", "shift", "resized", "inception"]
)
@pytest.mark.parametrize(
  "sampling", ["dense", "dense_loop", "strided", "segments", "snippets"]
)
def test_every_recipe(manifest, crop, sampling):
  c = config(crop=crop, sampling=sampling)
  (batch,) = take(train_batches(manifest, c, seed=0), 1)
  assert batch["video"].shape == (4, 3, 28, 28, 3)
  assert batch["video"].std() > 10


def test_another_decoder_gives_the_same_frames(manifest):
  c = config(**RANDOM)
  want = take(train_batches(manifest, c, seed=3), 2)
  c.decoder = "opencv"
  for a, b in zip(
    want, take(train_batches(manifest, c, seed=3), 2), strict=True
  ):
    difference = a["video"].astype(int) - b["video"]
    assert np.abs(difference).max() <= 3  # conversions of colour differ
  c.decoder = "vlc"
  with pytest.raises(ValueError, match=r"data\.decoder is 'vlc'; use one of"):
    train_batches(manifest, c, seed=3)


def test_steps_per_epoch(manifest):
  assert steps_per_epoch(manifest, 4) == 2
  assert steps_per_epoch(manifest, 10) == 1
  assert steps_per_epoch(manifest, 64) == 1


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"sampling": "sparse"}, r"data\.sampling is 'sparse'.*'dense'"),
    ({"crop": "centre"}, r"data\.crop is 'centre'.*'multiscale'"),
    ({"auto_augment": "v1"}, r"data\.auto_augment is 'v1'.*'v0'"),
  ],
)
def test_wrong_configuration(manifest, changes, message):
  with pytest.raises(ValueError, match=message):
    train_batches(manifest, config(**changes), seed=0)


def test_batch_that_hosts_cannot_share(manifest):
  message = "batch of 4 clips cannot be shared by 3 hosts"
  with pytest.raises(ValueError, match=message):
    train_batches(manifest, config(), seed=0, hosts=3)
  with pytest.raises(ValueError, match=message):
    eval_batches(
      manifest, config(), batch_size=4, clips=1, crops=1, host=2, hosts=3
    )


def test_wrong_views(manifest):
  with pytest.raises(ValueError, match="3 crops"):
    eval_batches(manifest, config(), batch_size=4, clips=1, crops=2)
  with pytest.raises(ValueError, match="3 clips per video"):
    eval_batches(manifest, config(), batch_size=4, clips=4, crops=1)
  views = {"batch_size": 4, "clips": 1, "crops": 1}
  with pytest.raises(ValueError, match=r"eval\.crop_style is 'ten'"):
    eval_batches(manifest, config(), **views, crop_style="ten")
  with pytest.raises(ValueError, match=r"eval\.short_side is 27.*crops of 28"):
    eval_batches(manifest, config(), **views, short_side=27)


def test_eval_batches_hold_every_video_once(manifest):
  with eval_batches(
    manifest, config(), batch_size=4, clips=2, crops=3
  ) as stream:
    batches = list(stream)
  assert len(batches) == 3
  shapes = {key: (x.shape, x.dtype.name) for key, x in batches[-1].items()}
  assert shapes == {
    "video": ((4, 6, 3, 28, 28, 3), "uint8"),
    "label": ((4,), "int32"),
    "readable": ((4,), "bool"),
    "mask": ((4,), "float32"),
    "index": ((4,), "int32"),
  }
  rows = {key: np.concatenate([b[key] for b in batches]) for key in shapes}
  assert rows["index"].tolist() == [*range(10), -1, -1]
  assert rows["mask"].tolist() == [1] * 10 + [0] * 2
  assert rows["readable"].tolist() == [True] * 10 + [False] * 2
  assert rows["label"].tolist() == [*range(10), 0, 0]
  assert not rows["video"][10:].any()
  for i, clip in enumerate(manifest.clips):
    np.testing.assert_array_equal(
      rows["video"][i], naive_views(manifest.file(clip), 2)
    )


def naive_views(path, clips):
  views = []
  for k in range(clips):
    indices = segments_eval(FRAMES, frames=3, stride=2, clip=k, clips=clips)
    frames = decode(path, indices)
    for crop in eval_crops(HEIGHT, WIDTH, size=28, crops=3):
      views.append(np.stack([crop(frame) for frame in frames]))
  return np.stack(views)


def test_eval_crops_of_mmaction(manifest):
  c = config(sampling="strided", stride=1)
  views = {"crop_style": "mmaction", "short_side": 31}
  with eval_batches(
    manifest, c, batch_size=10, clips=2, crops=3, **views
  ) as stream:
    (batch,) = stream
  for i, clip in enumerate(manifest.clips):
    want = []
    for k in range(2):
      indices = strided_eval(FRAMES, frames=3, stride=1, clip=k, clips=2)
      frames = decode(manifest.file(clip), indices)
      crops = eval_crops(
        HEIGHT, WIDTH, size=28, crops=3, style="mmaction", short=31
      )
      # 32 x 48 scaled to 31 x 47; left, right, centre.
      assert [(x.height, x.width) for x in crops] == [(31, 47)] * 3
      assert [(x.top, x.left) for x in crops] == [(1, 0), (1, 18), (1, 9)]
      for crop in crops:
        want.append(np.stack([crop(frame) for frame in frames]))
    np.testing.assert_array_equal(batch["video"][i], np.stack(want))


def test_eval_decodes_each_video_once(manifest, monkeypatch):
  reads = collections.Counter()
  opened = collections.Counter()
  read, enter = Video.read, Video.__enter__

  def count_read(self, *args):
    reads[self.path.name] += 1
    return read(self, *args)

  def count_open(self):
    opened[self.path.name] += 1
    return enter(self)

  monkeypatch.setattr(Video, "read", count_read)
  monkeypatch.setattr(Video, "__enter__", count_open)
  with eval_batches(
    manifest, config(threads=0), batch_size=4, clips=3, crops=3
  ) as stream:
    list(stream)
  assert reads == opened == {f"{i}.mp4": 1 for i in range(10)}


@pytest.mark.parametrize("hosts", [2, 4])
def test_eval_hosts_get_the_same_number_of_batches(manifest, hosts):
  views = {"batch_size": 4, "clips": 1, "crops": 1}
  whole = list(eval_batches(manifest, config(), **views))
  parts = [
    list(eval_batches(manifest, config(), **views, host=host, hosts=hosts))
    for host in range(hosts)
  ]
  assert {len(part) for part in parts} == {len(whole)} == {3}
  for step, want in enumerate(whole):
    for key, value in want.items():
      joined = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(joined, value)


def test_real_videos(tmp_path, shared):
  names = ["class_test.mp4", "flipping_a_pancake.mkv", "corrupted.mp4"]
  lines = []
  for i, name in enumerate(names):
    shutil.copy(shared / "videos" / name, pathlib.Path(tmp_path, name))
    lines.append(json.dumps({"id": name, "path": name, "label": i}))
  (tmp_path / "train.jsonl").write_text("\n".join(lines))
  (tmp_path / "labels.json").write_text(
    json.dumps({"classes": ["a", "b", "c"]})
  )
  c = config(
    batch_size=3, sampling="dense", stride=16, frames=4, crop="multiscale"
  )
  manifest = load_manifest(tmp_path, "train")
  with train_batches(manifest, c, seed=0) as stream:
    batch = next(stream)
    assert stream.bad.counts == {"corrupt": 1}
  assert set(batch["label"]) <= {0, 1}
  assert batch["video"].std() > 20
