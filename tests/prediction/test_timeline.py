import numpy as np
import pytest
from PIL import Image

from tests.prediction.models import prediction
from vidjax.prediction.timeline import (
  clock,
  draw_timeline,
  save_timeline,
  timeline_rows,
)

# c for a second and a half, then b; a is never the best.
WINDOWS = [
  (0.0, 1.0, [0.125, 0.125, 0.75]),
  (1.0, 2.0, [0.25, 0.25, 0.5]),
  (2.0, 3.0, [0.0, 1.0, 0.0]),
]


def rows(windows, **options):
  return timeline_rows(prediction(windows=windows, **options).timeline)


def test_classes_come_in_the_order_of_time():
  assert rows(WINDOWS) == [2, 1, 0]


def one_hot(order, count):
  eye = np.eye(count)
  return [(float(i), i + 1.0, eye[k]) for i, k in enumerate(order)]


def test_the_classes_of_most_of_the_time():
  order = [*range(9), *range(8, 0, -1)]  # class 0 is the best once
  labels = tuple("abcdefghi")
  assert rows(one_hot(order, 9), labels=labels) == list(range(1, 9))
  # Class 2 alone for ten seconds counts more than two windows of class 0.
  timeline = prediction(
    windows=[
      (0.0, 1.0, [1, 0, 0, 0]),
      (1.0, 2.0, [1, 0, 0, 0]),
      (2.0, 12.0, [0, 0, 0.6, 0.4]),
    ],
    labels=tuple("abcd"),
  ).timeline
  assert timeline_rows(timeline) == [0, 2, 3]


def test_every_head_has_its_best():
  windows = [(0.0, 1.0, [0.6, 0.4, 0.2, 0.7, 0.1])]
  one = prediction(windows=windows, labels=tuple("abcde"), heads=(2, 3))
  assert timeline_rows(one.timeline, (2, 3))[:2] == [0, 3]


def test_the_picture_shows_the_numbers():
  figure = draw_timeline(prediction(windows=WINDOWS))
  axes = figure.axes
  assert [ax.get_ylabel() for ax in axes] == ["c", "b", "a"]
  for ax, label in zip(axes, (2, 1, 0), strict=True):
    pale, dark = [patch.get_data() for patch in ax.patches]
    for stairs in (pale, dark):
      np.testing.assert_allclose(stairs.edges, [0, 1, 2, 3])
    wanted = np.array([scores[label] for _, _, scores in WINDOWS])
    np.testing.assert_allclose(pale.values + dark.values, wanted)
    best = np.array([scores.index(max(scores)) for _, _, scores in WINDOWS])
    np.testing.assert_allclose(dark.values, wanted * (best == label))
    assert ax.get_ylim() == (0, 1)
    assert ax.get_xlim() == (0, 3)
  assert axes[0].get_title(loc="left") == "a.mp4  ·  3 windows of 1 s"
  assert axes[0].get_title(loc="right") == "dark: most probable"


def test_what_is_left_out_is_said():
  order = range(10)
  labels = tuple("abcdefghij")
  figure = draw_timeline(prediction(windows=one_hot(order, 10), labels=labels))
  assert len(figure.axes) == 8
  title = figure.axes[0].get_title(loc="right")
  assert title == "dark: most probable (2 more classes are at times)"


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.5, "0.5 s"),
    (59, "59 s"),
    (60, "1:00"),
    (125, "2:05"),
    (3671, "1:01:11"),
  ],
)
def test_times(seconds, text):
  assert clock(seconds) == text


def test_a_png(tmp_path):
  one = prediction(windows=WINDOWS, labels=("x" * 90, "$b_", "c\nd"))
  save_timeline(one, tmp_path / "a.png")
  with Image.open(tmp_path / "a.png") as image:
    assert image.size == (990, 309)
    assert np.asarray(image.convert("L")).std() > 20


def test_a_single_window_that_lasts_an_hour():
  windows = [(0.0, 3600.0, [0.2, 0.5, 0.3])]
  figure = draw_timeline(prediction(windows=windows))
  figure.canvas.draw()
  assert figure.axes[0].get_title(loc="left") == (
    "a.mp4  ·  1 window of 1:00:00"
  )


def test_without_windows():
  with pytest.raises(ValueError, match="was predicted as a whole: give"):
    draw_timeline(prediction())
