import collections
import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vidjax.data.imgaug import ImgAug, clip_ops

NAMES = [
  "ShearX",
  "ShearY",
  "TranslateX",
  "TranslateY",
  "Rotate",
  "Posterize",
  "Solarize",
  "EnhanceColor",
  "EnhanceContrast",
  "EnhanceBrightness",
  "EnhanceSharpness",
  "Autocontrast",
  "Equalize",
  "Invert",
  "Cutout",
]
GEOMETRIC = NAMES[:5]


def picture(height=24, width=31, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def run(name, image, sign=1, seed=0):
  op = clip_ops([sign] * 5)[name]
  return op(image[None], np.random.default_rng(seed))[0]


def through(image, function):
  table = np.array([function(value) for value in range(256)], np.uint8)
  return table[image]


def bilinear(image, source):
  """Samples at `source(x, y)`; black from outside, blended at the border."""
  height, width, _ = image.shape
  out = np.zeros(image.shape)
  for y in range(height):
    for x in range(width):
      sx, sy = source(x, y)
      x0, y0 = math.floor(sx), math.floor(sy)
      for i, j in itertools.product((0, 1), (0, 1)):
        if 0 <= x0 + j < width and 0 <= y0 + i < height:
          weight = (1 - abs(sx - x0 - j)) * (1 - abs(sy - y0 - i))
          out[y, x] += weight * image[y0 + i, x0 + j]
  return out


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometry_against_sampling_one_pixel_after_another(name, sign):
  image = picture()
  height, width, _ = image.shape
  cx, cy = (width - 1) / 2, (height - 1) / 2
  slope = sign * math.tan(math.radians(15.471))
  cos, sin = math.cos(math.radians(27)), sign * math.sin(math.radians(27))
  source = {
    "ShearX": lambda x, y: (x - slope * (y - cy), y),
    "ShearY": lambda x, y: (x, y - slope * (x - cx)),
    "TranslateX": lambda x, y: (x - sign * 0.18 * width, y),
    "TranslateY": lambda x, y: (x, y - sign * 0.18 * height),
    "Rotate": lambda x, y: (
      cx + cos * (x - cx) + sin * (y - cy),
      cy - sin * (x - cx) + cos * (y - cy),
    ),
  }[name]
  got = run(name, image, sign)
  # OpenCV rounds the places to 1/32 pixel.
  np.testing.assert_allclose(got, bilinear(image, source), atol=9)
  assert np.abs(got - bilinear(image, source)).mean() < 2


def test_posterize_keeps_three_bits():
  image = picture()
  np.testing.assert_array_equal(run("Posterize", image), image // 32 * 32)


def test_solarize_inverts_from_230_4_on():
  image = picture(60, 60)
  np.testing.assert_array_equal(
    run("Solarize", image),
    through(image, lambda v: 255 - v if v > 230.4 else v),
  )


def test_invert():
  np.testing.assert_array_equal(run("Invert", picture()), 255 - picture())


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("EnhanceColor", lambda x: ImageEnhance.Color(x).enhance(1.72)),
    ("EnhanceContrast", lambda x: ImageEnhance.Contrast(x).enhance(1.72)),
    ("EnhanceBrightness", lambda x: ImageEnhance.Brightness(x).enhance(1.72)),
    ("EnhanceSharpness", lambda x: ImageEnhance.Sharpness(x).enhance(1.72)),
    ("Autocontrast", ImageOps.autocontrast),
    ("Equalize", ImageOps.equalize),
  ],
)
def test_pillow_operations(name, expected):
  image = picture() // 2 + 30
  np.testing.assert_array_equal(
    run(name, image), np.asarray(expected(Image.fromarray(image)))
  )


def test_cutout_is_a_grey_square_around_any_place():
  image = np.zeros((50, 70, 3), np.uint8)
  covered = np.zeros((50, 70))
  areas = []
  for seed in range(1500):
    grey = run("Cutout", image, seed=seed)
    assert set(np.unique(grey)) <= {0, 128}
    rows, columns = np.nonzero(grey[..., 0])
    areas.append(len(rows))
    covered += grey[..., 0] > 0
    if len(rows):  # a full rectangle, smaller only at the border
      sides = np.ptp(rows) + 1, np.ptp(columns) + 1
      assert sides[0] * sides[1] == len(rows)
      assert max(sides) <= 9  # 18 % of 50
      inside = rows.min() > 0 and rows.max() < 49
      if inside and columns.min() > 0 and columns.max() < 69:
        assert sides == (9, 9)
  assert max(areas) == 81
  middle = covered[10:40, 10:60]
  assert middle.mean() / 1500 == pytest.approx(81 / 3500, rel=0.1)
  assert covered[0].mean() == pytest.approx(middle.mean() / 2, rel=0.5)


def test_two_different_operations_are_applied_in_the_order_of_the_list():
  augment = ImgAug(0)
  assert list(augment.ops) == NAMES
  calls = []

  def recording(name):
    def op(video, rng):
      del rng
      calls.append(name)
      return video

    return op

  augment.ops = {name: recording(name) for name in NAMES}
  video, rng, clips = picture()[None], np.random.default_rng(1), 3150
  pairs = collections.Counter()
  for _ in range(clips):
    calls.clear()
    augment(video, rng)
    pairs[tuple(calls)] += 1
  assert set(pairs) == set(itertools.combinations(NAMES, 2))
  assert 8 < min(pairs.values()) <= max(pairs.values()) < 60  # 30 on average


def shown(augment):
  """The signs of an augmentation, as its operations show them."""
  image = picture()
  signs = []
  for name in GEOMETRIC:
    got = augment.ops[name](image[None], np.random.default_rng(0))[0]
    (sign,) = [s for s in (-1, 1) if np.array_equal(got, run(name, image, s))]
    signs.append(sign)
  return tuple(signs)


def test_signs_are_drawn_once_from_the_seed():
  found = [shown(ImgAug(seed)) for seed in range(60)]
  assert found[7] == shown(ImgAug(7))
  assert len(set(found)) > 20  # of 32
  means = np.mean(found, axis=0)
  assert np.all(np.abs(means) < 0.6)


def test_all_frames_change_alike():
  video = np.stack([picture()] * 4)
  augment = ImgAug(2)
  for seed in range(40):
    result = augment(video, np.random.default_rng(seed))
    assert (result == result[:1]).all()
    assert not np.array_equal(result, video)
