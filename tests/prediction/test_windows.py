import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.small_videos import write_images
from tests.data.videos import make
from vidjax.data.clips import open_clip
from vidjax.data.views import Views, read_views
from vidjax.prediction.windows import window_starts, windows

VIEWS = Views(
  frames=4, image_size=32, sampling="dense", stride=2, clips=2, crops=3
)
small = st.integers(1, 40)


@given(frames=small, length=small, step=small)
def test_windows_reach_the_end(frames, length, step):
  starts = window_starts(frames, length, step)
  regular = [s for s in range(0, frames, step) if s + length <= frames] or [0]
  assert starts[: len(regular)] == regular
  assert len(starts) <= len(regular) + 1
  assert starts == sorted(set(starts))
  assert starts[-1] + length >= frames
  assert all(s == 0 or s + length <= frames for s in starts)


@pytest.mark.parametrize(
  ("seconds", "stride", "length", "starts"),
  [
    (0.4, 0.2, 10, [0, 5, 10, 15, 20, 25, 30]),
    (0.4, 0.28, 10, [0, 7, 14, 21, 28, 30]),
    (0.4, 0.6, 10, [0, 15, 30]),
    (0.01, 0.52, 1, [0, 13, 26, 39]),
    (9.0, 1.0, 40, [0]),
  ],
)
def test_each_window_is_seen_as_a_video(
  tmp_path, seconds, stride, length, starts
):
  path = make(tmp_path / "a.mp4", n=40, size=(96, 64))
  with open_clip(path) as video:
    wanted = [read_views(video, VIEWS, start, length) for start in starts]
    found = list(windows(video, VIEWS, seconds, stride))
  assert [w.start for w in found] == pytest.approx(np.array(starts) / 25)
  stops = (np.array(starts) + length) / 25
  assert [w.stop for w in found] == pytest.approx(stops)
  for ours, theirs in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(ours.views, theirs)


def test_times_are_those_of_the_frames(tmp_path):
  times = [*range(0, 300, 10), *range(300, 900, 60)]
  path = make(tmp_path / "a.mp4", n=40, times=times, size=(96, 64))
  with open_clip(path) as video:
    rate = video.fps
    length = round(rate * 0.3)
    found = list(windows(video, VIEWS, 0.3, 10.0))
  assert found[0].start == 0
  assert found[0].stop == pytest.approx(
    times[length - 1] / 600 + 1 / rate, abs=1e-3
  )
  assert found[-1].start == pytest.approx(times[40 - length] / 600, abs=1e-3)


def test_a_folder_of_images(tmp_path):
  images = write_images(tmp_path / "a", n=7)
  views = Views(frames=2, image_size=24, sampling="strided", stride=1)
  with open_clip(tmp_path / "a") as video:
    found = list(windows(video, views, 0.25, 0.25))
  assert [w.start for w in found] == pytest.approx([0, 3 / 12, 4 / 12])
  # The clip in the middle of the two places in a window of three.
  np.testing.assert_array_equal(found[1].views[0], images[4:6, :, 4:28])


def peak(path) -> int:
  with open_clip(path) as video:
    tracemalloc.start()
    for _ in windows(video, VIEWS, 0.4, 0.2):
      pass
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
  return most


def test_the_memory_is_that_of_a_window(tmp_path):
  short = make(tmp_path / "a.mp4", n=30, size=(96, 64))
  long = make(tmp_path / "b.mp4", n=300, size=(96, 64))
  peak(short)
  frame = 32 * 48 * 3
  assert peak(long) - peak(short) < 40 * frame  # of 270 frames more
