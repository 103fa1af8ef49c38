import collections
import math

import numpy as np
import pytest
from PIL import Image

from vidjax.data import colour
from vidjax.data.colour import JITTERS, Jitter, blur, grey, hue, moco_v2


def picture(height=14, width=19, seed=0):
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (height, width, 3), np.uint8)
  # Among random pixels the corners of the colour cube, and greys.
  image[0, :8] = [[255 * (i >> bit & 1) for bit in range(3)] for i in range(8)]
  image[1] = np.arange(0, 19 * 13, 13, np.uint8)[:, None]
  return image


def run(function, image, *amount):
  return np.asarray(function(Image.fromarray(image), *amount))


def luma(image):
  return image @ (0.299, 0.587, 0.114)


@pytest.mark.parametrize("factor", [0.6, 0.87, 1, 1.25, 1.4])
def test_blends(factor):
  image = picture()
  grey_image = luma(image.astype(float))[..., None]
  for name, other in (
    ("brightness", 0),
    ("contrast", round(grey_image.mean())),
    ("saturation", grey_image),
  ):
    want = np.clip(other + factor * (image.astype(float) - other), 0, 255)
    got = run(JITTERS[name].function, image, factor)
    np.testing.assert_allclose(got, want, atol=1.6, err_msg=name)


def test_grey():
  got = run(grey, picture()).astype(float)
  np.testing.assert_array_equal(got, got[..., :1].repeat(3, -1))
  np.testing.assert_allclose(got[..., 0], luma(picture()), atol=0.51)


@pytest.mark.parametrize(
  ("turns", "want"),
  [(0.1, (255, 150, 0)), (-0.1, (255, 0, 144)), (1 / 3, (0, 255, 0))],
)
def test_hue_of_red(turns, want):
  # 25.5 of 255 steps are truncated to 25, either way.
  red = np.array([[[255, 0, 0]]], np.uint8)
  np.testing.assert_allclose(run(hue, red, turns)[0, 0], want, atol=6)


@pytest.mark.parametrize("turns", [-0.1, -0.033, 0.0, 0.05, 0.1])
def test_hue_moves_the_8_bit_hue_and_keeps_greys(turns):
  image = picture()
  image[image.max(-1) < 100] += 100
  got = run(hue, image, turns)
  np.testing.assert_array_equal(got[1], image[1])
  before, after = (
    np.asarray(Image.fromarray(x).convert("HSV")).astype(int)
    for x in (image, got)
  )
  coloured = before[..., 1] > 100  # the hue of the others is coarse
  moved = (after - before)[..., 0][coloured] - math.trunc(255 * turns)
  assert np.abs((moved + 128) % 256 - 128).max() <= 2
  np.testing.assert_array_equal(after[..., 2], before[..., 2])


@pytest.mark.parametrize("turns", np.linspace(-0.1, 0.1, 9).tolist())
def test_hue_is_that_of_torchvision(turns):
  """Its formula: the 8-bit hue overflows and underflows."""
  image = Image.fromarray(picture())
  h, s, v = image.convert("HSV").split()
  moved = np.asarray(h) + np.int32(turns * 255).astype(np.uint8)
  want = Image.merge("HSV", (Image.fromarray(moved), s, v)).convert("RGB")
  np.testing.assert_array_equal(np.asarray(hue(image, turns)), want)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
def test_blur_is_a_gaussian_of_that_deviation(radius):
  step = np.zeros((9, 41, 3), np.uint8)
  step[:, 20:] = 255
  kernel = np.diff(run(blur, step, radius)[4, :, 0].astype(float)) / 255
  places = np.arange(len(kernel)) + 1
  mean = (kernel * places).sum()
  assert kernel.sum() == pytest.approx(1)
  assert mean == pytest.approx(20, abs=0.1)
  variance = (kernel * (places - mean) ** 2).sum()
  assert variance == pytest.approx(radius**2, rel=0.1)
  want = np.exp(-((places - 20) ** 2) / (2 * radius**2))
  np.testing.assert_allclose(kernel, want / want.sum(), atol=0.03)


def test_the_ranges():
  ranges = {name: (j.low, j.high) for name, j in JITTERS.items()}
  assert ranges == {
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.6, 1.4),
    "hue": (-0.1, 0.1),
  }


class Recorder:
  """Stands for the changes, and notes with which amounts they are called."""

  def __init__(self, monkeypatch):
    self.calls = []
    for name, jitter in JITTERS.items():
      change = Jitter(self.recording(name), jitter.low, jitter.high)
      monkeypatch.setitem(JITTERS, name, change)
    for name in ("grey", "blur"):
      monkeypatch.setattr(colour, name, self.recording(name))

  def recording(self, name):
    def function(image, *amount):
      self.calls.append((name, *amount))
      return image

    return function


def test_draws(monkeypatch):
  recorder = Recorder(monkeypatch)
  video, rng, clips = picture(2, 19)[None], np.random.default_rng(0), 6000
  runs = []
  for _ in range(clips):
    recorder.calls.clear()
    same = moco_v2(video, rng) is video
    assert same == (not recorder.calls)
    runs.append(tuple(recorder.calls))
  names = [tuple(call[0] for call in calls) for calls in runs]
  orders = collections.Counter(n[:4] for n in names if set(JITTERS) <= set(n))
  assert len(orders) == 24
  assert sum(orders.values()) / clips == pytest.approx(0.8, abs=0.02)
  assert min(orders.values()) > 120  # 200 on average
  tails = collections.Counter(
    n[4:] if set(JITTERS) <= set(n) else n for n in names
  )
  for tail, share in (
    ((), 0.4),
    (("grey",), 0.1),
    (("blur",), 0.4),
    (("grey", "blur"), 0.1),
  ):
    assert tails[tail] / clips == pytest.approx(share, abs=0.02)
  ranges = {name: (j.low, j.high) for name, j in JITTERS.items()}
  for name, (low, high) in (ranges | {"blur": (0.1, 2.0)}).items():
    drawn = np.array([c[1] for calls in runs for c in calls if c[0] == name])
    assert low <= drawn.min() <= low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) <= drawn.max() <= high
    middle = (low + high) / 2
    assert drawn.mean() == pytest.approx(middle, abs=0.02 * (high - low))


def test_frames_share_the_draws():
  video = np.stack([picture(seed=seed) for seed in range(3)])
  for seed in range(30):
    result = moco_v2(video, np.random.default_rng(seed))
    for frame, got in zip(video, result, strict=True):
      (want,) = moco_v2(frame[None], np.random.default_rng(seed))
      np.testing.assert_array_equal(got, want)
