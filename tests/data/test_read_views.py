"""One video's views are those of evaluation, whoever asks for them."""

import dataclasses

import numpy as np
import pytest

from tests.data.test_pipeline import config
from tests.data.test_views import write_data
from tests.data.videos import make
from vidjax.data.decode import Video
from vidjax.data.manifest import load_manifest
from vidjax.data.pipeline import eval_batches
from vidjax.data.views import Views, read_views


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("views")
  make(root / "a.mp4", n=40, size=(96, 64))
  write_data(root, ["a.mp4"])
  return root


@pytest.mark.parametrize(
  ("sampling", "style", "clips", "crops", "short"),
  [
    ("dense", "slowfast", 2, 3, 0),
    ("dense_loop", "slowfast", 3, 1, 0),
    ("strided", "mmaction", 4, 3, 36),
    ("segments", "torchvision", 3, 1, 32),
    ("snippets", "slowfast", 1, 3, 0),
  ],
)
def test_they_are_those_of_evaluation(
  data, sampling, style, clips, crops, short
):
  c = config(frames=4, stride=3, sampling=sampling)
  c.segments = 2
  views = Views(
    frames=4,
    image_size=c.image_size,
    sampling=sampling,
    stride=3,
    segments=2,
    clips=clips,
    crops=crops,
    crop_style=style,
    short_side=short,
  )
  manifest = load_manifest(data, "train")
  with eval_batches(
    manifest,
    c,
    batch_size=1,
    clips=clips,
    crops=crops,
    crop_style=style,
    short_side=short,
  ) as batches:
    (wanted,) = next(batches)["video"]
  with Video(data / "a.mp4") as video:
    found = read_views(video, views, 0, video.frames)
    assert found.shape == (views.count, 4, c.image_size, c.image_size, 3)
    np.testing.assert_array_equal(found, wanted)


def test_a_part_is_a_video_of_its_own(data):
  views = Views(frames=4, image_size=64, sampling="dense", stride=2, clips=2)
  with Video(data / "a.mp4") as video:
    found = read_views(video, views, 10, 12)
    places = np.array([10, 12, 14, 17, 12, 14, 16, 19])
    wanted = video.read(places)[:, :, 16:80].reshape(2, 4, 64, 64, 3)
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"sampling": "dens"}, "data.sampling is 'dens'; use one of 'dense'"),
    ({"clips": 0}, "clips is 0; use 1 or more"),
    ({"crops": 2}, "1 .centre. or 3 crops per clip, not 2"),
    ({"sampling": "segments", "clips": 4}, "3 clips per video"),
    ({"short_side": 20}, "eval.short_side is 20, but crops of 28 pixels"),
    ({"sampling": "snippets", "segments": 3}, "data.segments is 3"),
  ],
)
def test_views_that_cannot_be(change, message):
  views = Views(frames=4, image_size=28, sampling="dense", stride=2)
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(views, **change)
