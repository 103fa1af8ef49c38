"""What is drawn, and that the rest of the video stays as it is."""

import dataclasses
import itertools

import av
import numpy as np
import pytest

from tests.data.small_videos import write_images, write_rotated, write_video
from tests.data.videos import make
from tests.prediction.models import prediction, with_path
from vidjax.data.decode import Video, VideoError
from vidjax.prediction import annotate as module
from vidjax.prediction.annotate import (
  AnnotateError,
  annotate,
  draw_over,
  draw_panel,
)
from vidjax.prediction.results import Guess

GUESSES = [Guess("left", 0, 0.5), Guess("right", 1, 0.25), Guess("up", 2, 0.0)]


def blue(panel):
  """Where the bars are; letters are white."""
  return (panel[..., 2] > 200) & (panel[..., 0] < 150)


def test_bars_are_as_long_as_the_probabilities():
  panel = draw_panel(480, 640, GUESSES)
  height, width = panel.shape[:2]
  assert width == 24 * 20
  assert height < 0.45 * 480
  bars = blue(panel)
  lengths = bars.any(axis=0).nonzero()[0]
  assert (lengths.min(), lengths.max()) == (6, 6 + round(0.5 * (width - 12)))
  rows = np.flatnonzero(bars.any(axis=1))
  gaps = np.flatnonzero(np.diff(rows) > 1)
  assert len(gaps) == 1  # two bars, and none for 0
  second = bars[rows[gaps[0] + 1] :].any(axis=0).nonzero()[0]
  assert second.max() == 6 + round(0.25 * (width - 12))


@pytest.mark.parametrize(
  ("height", "width"), [(1, 1), (8, 200), (64, 64), (75, 101), (1280, 720)]
)
def test_it_fits_any_frame(height, width):
  names = [dataclasses.replace(g, label=g.label * 30) for g in GUESSES]
  panel = draw_panel(height, width, names)
  assert panel.shape[0] <= height
  assert panel.shape[1] <= width
  frame = np.full((height, width, 3), 128, np.uint8)
  drawn = draw_over(frame, panel)
  assert (frame == 128).all()
  below, beside = panel.shape[:2]
  np.testing.assert_array_equal(drawn[: height - below], 128)
  np.testing.assert_array_equal(drawn[:, beside:], 128)
  assert (drawn[height - below :, :beside] != 128).any()


def texts(monkeypatch, height, width, guesses):
  found = []
  real = module.ImageDraw.ImageDraw.text

  def spy(canvas, place, text, *rest, **options):
    found.append(text)
    return real(canvas, place, text, *rest, **options)

  monkeypatch.setattr(module.ImageDraw.ImageDraw, "text", spy)
  draw_panel(height, width, guesses)
  return found


def test_text(monkeypatch):
  found = texts(monkeypatch, 480, 640, GUESSES)
  assert found == ["50 %", "left", "25 %", "right", "<1 %", "up"]


def test_names_are_cut_on_narrow_frames(monkeypatch):
  (name,) = texts(monkeypatch, 64, 64, [Guess("x" * 40, 0, 0.5)])
  assert name == (len(name) - 1) * "x" + "…"
  assert len(name) > 5


def written(path):
  with av.open(str(path)) as container:
    (stream,) = container.streams
    context = stream.codec_context
    return context.name, stream.width, stream.height


def windows_of(path, *windows):
  return with_path(prediction(windows=list(windows)), path)


def test_frames_and_times_stay(tmp_path):
  steps = [50, 10, 20, 30] * 5
  times = list(itertools.accumulate(steps[:-1], initial=0))
  source = make(tmp_path / "a.mp4", n=20, times=times, size=(128, 96))
  annotate(with_path(prediction(), source), tmp_path / "b.mp4")
  assert written(tmp_path / "b.mp4") == ("h264", 128, 96)
  with Video(source) as a, Video(tmp_path / "b.mp4") as b:
    assert b.frames == 20
    seconds = [
      [v.seconds(frame) - first for frame in v.walk()]
      for v, first in ((a, 0.0), (b, 0.0))
    ]
    before, after = a.read(range(20)), b.read(range(20))
  np.testing.assert_allclose(seconds[1], seconds[0], atol=1e-4)
  top = slice(0, 40)  # above the panel
  difference = np.abs(before[:, top].astype(int) - after[:, top]).mean(
    (1, 2, 3)
  )
  assert difference.max() < 6
  between = np.abs(before[:-1, top].astype(int) - before[1:, top])
  assert between.mean((1, 2, 3)).min() > 12
  assert np.abs(before[:, 56:].astype(int) - after[:, 56:]).mean() > 30
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_each_frame_shows_its_window(tmp_path, monkeypatch):
  source = write_video(tmp_path / "a.mp4", 12)  # a second
  one = windows_of(
    source, (0.0, 0.5, [1.0, 0.0, 0.0]), (0.5, 1.0, [0.0, 0.25, 0.75])
  )
  drawn = []
  real = module.draw_panel

  def spy(height, width, guesses):
    drawn.append([(g.label, g.probability) for g in guesses])
    return real(height, width, guesses)

  used = []
  over = module.draw_over
  monkeypatch.setattr(module, "draw_panel", spy)
  monkeypatch.setattr(
    module, "draw_over", lambda f, p: used.append(len(drawn)) or over(f, p)
  )
  annotate(one, tmp_path / "b.mp4", top=2)
  assert drawn == [[("a", 1.0), ("b", 0.0)], [("c", 0.75), ("b", 0.25)]]
  assert used == [1] * 6 + [2] * 6


def test_an_upright_video_of_odd_size(tmp_path):
  images = write_images(tmp_path / "odd", 3)
  odd = [image[:23, :31] for image in images]
  for number, image in enumerate(odd, 1):
    module.Image.fromarray(image).save(tmp_path / "odd" / f"{number:05d}.png")
  annotate(with_path(prediction(), tmp_path / "odd"), tmp_path / "b.mp4")
  assert written(tmp_path / "b.mp4") == ("h264", 32, 24)
  plain = write_video(tmp_path / "p.mp4", 3, height=24, width=64)
  turned = write_rotated(plain, tmp_path / "r.mp4")
  annotate(with_path(prediction(), turned), tmp_path / "c.mp4")
  assert written(tmp_path / "c.mp4") == ("h264", 24, 64)
  with Video(tmp_path / "c.mp4") as video:
    assert video.fps == 12


def test_nothing_is_left_of_a_video_that_breaks(tmp_path):
  gone = with_path(prediction(), tmp_path / "gone.mp4")
  with pytest.raises(VideoError, match="does not exist"):
    annotate(gone, tmp_path / "b.mp4")
  assert not list(tmp_path.iterdir())
  with pytest.raises(OSError, match="No such file"):
    annotate(gone, tmp_path / "no" / "b.mp4")


def test_images_of_several_sizes(tmp_path):
  write_images(tmp_path / "a", 3)
  small = np.zeros((10, 12, 3), np.uint8)
  module.Image.fromarray(small).save(tmp_path / "a" / "00002.png")
  with pytest.raises(VideoError, match="is damaged"):
    annotate(with_path(prediction(), tmp_path / "a"), tmp_path / "b.mp4")
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_without_x264(tmp_path, monkeypatch):
  monkeypatch.setattr(module.av, "codecs_available", {"mpeg4"})
  with pytest.raises(AnnotateError, match="libx264 is missing"):
    annotate(prediction(), tmp_path / "b.mp4")
