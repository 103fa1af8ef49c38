import itertools

import numpy as np
import pytest

from tests.data.small_videos import write_images, write_rotated, write_video
from tests.data.videos import make
from vidjax.data.clips import open_clip
from vidjax.data.decode import Video
from vidjax.data.stream import frame_rate, timed_frames


def collect(path):
  with open_clip(path) as video:
    times, images = zip(
      *((time, image.copy()) for time, image in timed_frames(video)),
      strict=True,
    )
    return frame_rate(video), times, np.stack(images)


def test_a_file_of_variable_rate(tmp_path):
  steps = [50, 10, 20, 30] * 5
  times = [600 + x for x in itertools.accumulate(steps[:-1], initial=0)]
  path = make(tmp_path / "a.mp4", n=20, times=times, size=(96, 64))
  _, found, images = collect(path)
  np.testing.assert_allclose(found, (np.array(times) - 600) / 600, atol=2e-4)
  with Video(path) as video:
    np.testing.assert_array_equal(images, video.read(range(20)))


def test_a_rotated_file_is_upright(tmp_path):
  plain = write_video(tmp_path / "a.mp4", 3)
  rate, times, images = collect(write_rotated(plain, tmp_path / "b.mp4"))
  assert rate == 12
  assert times == pytest.approx([0, 1 / 12, 2 / 12])
  _, _, upright = collect(plain)
  np.testing.assert_array_equal(images, np.rot90(upright, axes=(1, 2)))


def test_a_folder_of_images_has_twelve_a_second(tmp_path):
  wanted = write_images(tmp_path / "a")
  rate, times, images = collect(tmp_path / "a")
  assert rate == 12
  assert times == pytest.approx(np.arange(5) / 12)
  np.testing.assert_array_equal(images, wanted)
