import dataclasses
import math
import re

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Resampling

from vidjax.data import auto_augment

# Operation, probability (nothing stands for 1) and level, as published.
PUBLISHED = """
Equalize.8/1+ShearY.8/4; Color.4/9+Equalize.6/3; Color.4/1+Rotate.6/8;
Solarize.8/3+Equalize.4/7; Solarize.4/2+Solarize.6/2; Color.2/0+Equalize.8/8;
Equalize.4/8+SolarizeAdd.8/3; ShearX.2/9+Rotate.6/8; Color.6/1+Equalize1/2;
Invert.4/9+Rotate.6/0; Equalize1/9+ShearY.6/3; Color.4/7+Equalize.6/0;
Posterize.4/6+AutoContrast.4/7; Solarize.6/8+Color.6/9; Solarize.2/4+Rotate.8/9;
Rotate1/7+TranslateYRel.8/9; ShearX0/0+Solarize.8/4; ShearY.8/0+Color.6/4;
Color1/0+Rotate.6/2; Equalize.8/4+Equalize0/8; Equalize1/4+AutoContrast.6/2;
ShearY.4/7+SolarizeAdd.6/7; Posterize.8/2+Solarize.6/10;
Solarize.6/8+Equalize.6/1; Color.8/6+Rotate.4/5
"""

GEOMETRIC = [name for name, op in auto_augment.OPS.items() if op.geometric]


def picture(height=12, width=17, seed=0, low=0, high=256):
  rng = np.random.default_rng(seed)
  return rng.integers(low, high, (height, width, 3)).astype(np.uint8)


def run(name, image, level, *resampling):
  return np.asarray(
    auto_augment.OPS[name](Image.fromarray(image), level, *resampling)
  )


def through(image, function):
  """Applies a function of one value to every value."""
  table = np.array([function(value) for value in range(256)], np.uint8)
  return table[image]


def test_policies_are_the_published_ones():
  pattern = re.compile(r"([A-Za-z]+)([\d.]+)/(\d+)")
  pairs = tuple(
    tuple(
      (name, float(probability), int(level))
      for name, probability, level in pattern.findall(pair)
    )
    for pair in PUBLISHED.split(";")
  )
  assert len(pairs) == 25
  assert pairs == auto_augment.POLICIES


def test_invert():
  image = picture()
  np.testing.assert_array_equal(run("Invert", image, 9), 255 - image)


@pytest.mark.parametrize(
  ("level", "threshold"), [(2, 51), (3, 76), (4, 102), (8, 204), (10, 256)]
)
def test_solarize_inverts_from_a_threshold_on(level, threshold):
  image = picture()
  np.testing.assert_array_equal(
    run("Solarize", image, level),
    through(image, lambda v: 255 - v if v >= threshold else v),
  )


@pytest.mark.parametrize(("level", "added"), [(3, 33), (7, 77), (10, 110)])
def test_solarize_add_lifts_the_dark_half(level, added):
  image = picture()
  np.testing.assert_array_equal(
    run("SolarizeAdd", image, level),
    through(image, lambda v: min(v + added, 255) if v < 128 else v),
  )


@pytest.mark.parametrize(("level", "bits"), [(2, 0), (6, 2), (9, 3), (10, 4)])
def test_posterize_keeps_the_highest_bits(level, bits):
  image = picture()
  step = 2 ** (8 - bits)
  np.testing.assert_array_equal(
    run("Posterize", image, level), through(image, lambda v: v // step * step)
  )


@pytest.mark.parametrize("level", [0, 4, 5, 9])
def test_color_blends_with_grey(level):
  image = picture().astype(float)
  grey = np.round(image @ (0.299, 0.587, 0.114))[..., None]
  blend = grey + (image - grey) * (0.1 + 0.18 * level)
  np.testing.assert_allclose(
    run("Color", picture(), level), blend.clip(0, 255), atol=2
  )
  np.testing.assert_array_equal(run("Color", picture(), 5), picture())


def test_auto_contrast_spreads_each_channel():
  image = picture(low=40, high=190)
  expected = np.empty_like(image)
  for c in range(3):
    low, high = int(image[..., c].min()), int(image[..., c].max())
    expected[..., c] = (image[..., c] - low) * (255 / (high - low))
  np.testing.assert_allclose(
    run("AutoContrast", image, 7).astype(int), expected.astype(int), atol=1
  )


def test_equalize_flattens_each_histogram():
  image = picture(40, 60, low=60, high=120)
  expected = np.empty_like(image)
  for c in range(3):
    counts = np.bincount(image[..., c].ravel(), minlength=256)
    last = counts[counts > 0][-1]
    step = (counts.sum() - last) // 255
    below = np.concatenate([[0], np.cumsum(counts)[:-1]])
    table = np.minimum((step // 2 + below) // step, 255)
    expected[..., c] = table[image[..., c]]
  np.testing.assert_array_equal(run("Equalize", image, 1), expected)


def bilinear(image, source):
  """Samples at `source(x, y)`, pixel centres at half integers; grey outside."""
  height, width, _ = image.shape
  out = np.full(image.shape, 128.0)
  for y in range(height):
    for x in range(width):
      sx, sy = source(x + 0.5, y + 0.5)
      if not (0 <= sx < width and 0 <= sy < height):
        continue
      x0, y0 = math.floor(sx - 0.5), math.floor(sy - 0.5)
      value = np.zeros(3)
      for i in (0, 1):
        for j in (0, 1):
          weight = (1 - abs(sy - 0.5 - y0 - i)) * (1 - abs(sx - 0.5 - x0 - j))
          row, column = min(max(y0 + i, 0), height - 1), x0 + j
          value += weight * image[row, min(max(column, 0), width - 1)]
      out[y, x] = value
  return out


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
  ("name", "level"),
  [("ShearX", 9), ("ShearY", 4), ("ShearY", 7), ("TranslateYRel", 9)]
  + [("Rotate", m) for m in (2, 5, 7, 8, 9)],
)
def test_geometry_against_sampling_one_pixel_after_another(name, level, sign):
  image = picture()
  height, width, _ = image.shape
  m = sign * level
  angle = math.radians(3 * m)  # counterclockwise, y points down

  def rotated(x, y):
    x, y = x - width / 2, y - height / 2
    return (
      math.cos(angle) * x - math.sin(angle) * y + width / 2,
      math.sin(angle) * x + math.cos(angle) * y + height / 2,
    )

  source = {
    "ShearX": lambda x, y: (x + 0.03 * m * y, y),
    "ShearY": lambda x, y: (x, y + 0.03 * m * x),
    "TranslateYRel": lambda x, y: (x, y + 0.045 * m * height),
    "Rotate": rotated,
  }[name]
  np.testing.assert_allclose(
    run(name, image, m), bilinear(image, source), atol=1
  )


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_of_level_0_changes_nothing(name):
  for resampling in (Resampling.BILINEAR, Resampling.BICUBIC):
    image = picture()
    np.testing.assert_array_equal(run(name, image, 0, resampling), image)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_can_be_bicubic(name):
  image = picture()
  assert np.any(
    run(name, image, 5, Resampling.BICUBIC)
    != run(name, image, 5, Resampling.BILINEAR)
  )


def only(monkeypatch, *policy):
  monkeypatch.setattr(auto_augment, "POLICIES", (policy,))


def test_color_operations_apply_in_order_to_every_frame(monkeypatch):
  only(monkeypatch, ("Solarize", 1.0, 4), ("Invert", 1.0, 0))
  video = np.stack([picture(seed=s) for s in range(3)])
  expected = 255 - through(video, lambda v: 255 - v if v >= 102 else v)
  result = auto_augment.auto_augment(video, np.random.default_rng(0))
  np.testing.assert_array_equal(result, expected)


def test_an_operation_of_probability_0_never_applies(monkeypatch):
  only(monkeypatch, ("Invert", 0.0, 0), ("ShearX", 0.0, 9))
  video = picture()[None]
  for seed in range(20):
    rng = np.random.default_rng(seed)
    assert auto_augment.auto_augment(video, rng) is video


def test_the_sign_is_drawn_per_clip_and_the_filter_per_frame(monkeypatch):
  only(monkeypatch, ("Rotate", 1.0, 7), ("Invert", 0.0, 0))
  image = picture()
  video = np.stack([image] * 8)
  filters = (Resampling.BILINEAR, Resampling.BICUBIC)
  signs, used = [], set()
  for seed in range(40):
    result = auto_augment.auto_augment(video, np.random.default_rng(seed))
    found = [
      (sign, f)
      for frame in result
      for sign in (-1, 1)
      for f in filters
      if np.array_equal(frame, run("Rotate", image, sign * 7, f))
    ]
    assert len(found) == len(video)
    assert len({sign for sign, _ in found}) == 1
    signs.append(found[0][0])
    used |= {f for _, f in found}
  assert 8 <= signs.count(1) <= 32  # of 40: out of it once in 10,000
  assert used == set(filters)


def test_every_operation_is_as_frequent_as_the_policies_say(monkeypatch):
  counts = dict.fromkeys(auto_augment.OPS, 0)

  def counting(name):
    def function(image, *amount):
      del amount
      counts[name] += 1
      return image

    return function

  ops = {
    name: dataclasses.replace(op, function=counting(name))
    for name, op in auto_augment.OPS.items()
  }
  monkeypatch.setattr(auto_augment, "OPS", ops)
  video, rng, clips = picture(2, 2)[None], np.random.default_rng(0), 5000
  for _ in range(clips):
    auto_augment.auto_augment(video, rng)
  for name, count in counts.items():
    expected = (
      clips
      / 25
      * sum(
        p for pair in auto_augment.POLICIES for n, p, _ in pair if n == name
      )
    )
    assert count == pytest.approx(expected, abs=5 * math.sqrt(expected)), name


def test_the_draws_are_those_of_earlier_versions():
  video = np.stack([picture(seed=s) for s in range(3)])
  after = []
  for seed in range(12):
    rng = np.random.default_rng(seed)
    auto_augment.auto_augment(video, rng)
    after.append(int(rng.integers(1000)))
  assert after == [813, 511, 261, 85, 943, 805, 538, 625, 326, 870, 956, 128]


def test_auto_augment_repeats_with_its_generator():
  video = np.stack([picture(seed=s) for s in range(4)])
  before = video.copy()
  for seed in range(30):
    first, second = (
      auto_augment.auto_augment(video, np.random.default_rng(seed))
      for _ in "ab"
    )
    np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(video, before)
