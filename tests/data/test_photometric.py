import colorsys
import math

import numpy as np
import pytest

from vidjax.data import photometric
from vidjax.data.photometric import CHANGES

F = np.float32


def blend(value, other, factor):
  """One value, in float32 as PyTorch computes it."""
  y = F(factor) * F(value) + F(1 - factor) * F(other)
  return int(min(max(y, F(0)), F(255)))


def naive_brightness(pixel, factor):
  return [blend(value, 0, factor) for value in pixel]


def naive_saturation(pixel, factor):
  r, g, b = (F(value) for value in pixel)
  grey = int(F(0.2989) * r + F(0.587) * g + F(0.114) * b)
  return [blend(value, grey, factor) for value in pixel]


def naive_gamma(pixel, exponent):
  return [int(255.999 * (int(value) / 255) ** exponent) for value in pixel]


def naive_hue(pixel, turns):
  h, s, v = colorsys.rgb_to_hsv(*(int(value) / 255 for value in pixel))
  return [
    math.floor(255.999 * x) for x in colorsys.hsv_to_rgb((h + turns) % 1, s, v)
  ]


NAIVE = {
  "brightness": (naive_brightness, (0.5, 0.93, 1.0, 1.7, 2.0)),
  "saturation": (naive_saturation, (0.5, 0.93, 1.0, 2.2, 3.0)),
  "gamma": (naive_gamma, (0.8, 0.93, 1.0, 1.2)),
  "hue": (naive_hue, (-0.5, -0.21, 0.0, 0.013, 0.4, 0.5)),
}


def clip(seed=0, frames=2):
  """Random pixels, and among them black, white, greys and pure colours."""
  rng = np.random.default_rng(seed)
  video = rng.integers(0, 256, (frames, 24, 24, 3), np.uint8)
  video[0, 0] = np.arange(0, 240, 10, np.uint8)[:, None]
  video[0, 1, :8] = [
    [255 * (i >> bit & 1) for bit in range(3)] for i in range(8)
  ]
  return video


@pytest.mark.parametrize("name", CHANGES)
def test_pixel_by_pixel(name):
  naive, amounts = NAIVE[name]
  video = clip()
  for amount in amounts:
    got = CHANGES[name].function(video, amount)
    assert got.dtype == np.uint8
    want = [naive(pixel, amount) for pixel in video.reshape(-1, 3)]
    want = np.array(want).reshape(video.shape)
    # float32 may cross an integer where the naive loop is float64.
    assert np.abs(got.astype(int) - want).max() <= (
      0 if name in ("brightness", "saturation") else 1
    )
    assert np.mean(got != want) < 1e-3, amount


def test_one_half_of_the_colour_circle():
  red, cyan = [[[[255, 0, 0]]]], [[[[0, 255, 255]]]]
  turned = photometric.hue(np.array(red, np.uint8), 0.5)
  assert turned.tolist() == cyan
  assert photometric.hue(turned, -0.5).tolist() == red


@pytest.mark.parametrize(
  ("name", "neutral"),
  [("brightness", 1.0), ("saturation", 1.0), ("gamma", 1.0), ("hue", 0.0)],
)
def test_neutral_amounts_change_nothing(name, neutral):
  video = clip()
  np.testing.assert_array_equal(CHANGES[name].function(video, neutral), video)


@pytest.mark.parametrize("seed", range(30))
def test_draw_by_draw(seed):
  video = clip(seed, frames=3)
  got = photometric.photometric(video, np.random.default_rng(seed))
  rng = np.random.default_rng(seed)
  want = video
  for name, low, high in (
    ("brightness", 0.5, 2),
    ("saturation", 0.5, 3),
    ("gamma", 0.8, 1.2),
    ("hue", -0.5, 0.5),
  ):
    if rng.random() < 0.1:
      want = CHANGES[name].function(want, low + (high - low) * rng.random())
  np.testing.assert_array_equal(got, want)
  if want is video:
    assert got is video


def test_each_change_comes_one_time_in_ten(monkeypatch):
  seen = {name: [] for name in CHANGES}

  def record(name):
    def function(video, amount):
      seen[name].append(amount)
      return video

    return function

  for name, change in CHANGES.items():
    monkeypatch.setitem(
      CHANGES,
      name,
      photometric.Change(record(name), change.low, change.high),
    )
  rng, video = np.random.default_rng(0), np.zeros((1, 1, 1, 3), np.uint8)
  for _ in range(4000):
    photometric.photometric(video, rng)
  for name, low, high in (
    ("brightness", 0.5, 2),
    ("saturation", 0.5, 3),
    ("gamma", 0.8, 1.2),
    ("hue", -0.5, 0.5),
  ):
    amounts = np.array(seen[name])
    assert 330 < len(amounts) < 470
    assert low <= amounts.min() < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < amounts.max() <= high
    assert amounts.mean() == pytest.approx((low + high) / 2, abs=0.07)


def test_all_frames_change_alike():
  video = np.repeat(clip(frames=1), 3, axis=0)
  changed = 0
  for seed in range(40):
    got = photometric.photometric(video, np.random.default_rng(seed))
    np.testing.assert_array_equal(got, got[:1].repeat(3, axis=0))
    changed += not np.array_equal(got, video)
  assert changed > 5
