import collections
import itertools
import math
import types

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vidjax.data import augment
from vidjax.data.image_ops import Op
from vidjax.data.manifest import load_manifest
from vidjax.data.motion import write_motion_clips
from vidjax.data.pipeline import train_batches
from vidjax.data.rand_augment16 import OPS, RandAugment16

NAMES = [
  "AutoContrast",
  "Equalize",
  "Invert",
  "Rotate",
  "Posterize",
  "Solarize",
  "SolarizeAdd",
  "Color",
  "Contrast",
  "Brightness",
  "Sharpness",
  "ShearX",
  "ShearY",
  "Cutout",
  "TranslateX",
  "TranslateY",
]
SHARE = 27 / 30


def picture(height=24, width=31, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(1, 256, (height, width, 3)).astype(np.uint8)


def run(name, share, image=None, *place):
  image = picture() if image is None else image
  return np.asarray(OPS[name](Image.fromarray(image), share, *place))


def through(image, function):
  table = np.array([function(value) for value in range(256)], np.uint8)
  return table[image]


def test_the_operations():
  assert list(OPS) == NAMES


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("magnitude", [0, 7, 15, 27, 30])
def test_amounts(magnitude, sign):
  share = magnitude / 30
  expected = {
    "Rotate": 30 * share,
    "Posterize": 4 - int(4 * share),
    "Solarize": 256 - 256 * share,
    "SolarizeAdd": int(110 * share),
    "ShearX": sign * 0.3 * share,
    "ShearY": sign * 0.3 * share,
    "Cutout": 0.3571 * share,
    "TranslateX": sign * 0.4464 * share,
    "TranslateY": sign * 0.4464 * share,
  }
  for name in ("Color", "Contrast", "Brightness", "Sharpness"):
    expected[name] = 1 + sign * 0.9 * share
  for name, op in OPS.items():
    if name in expected:
      assert op.amount is not None
      assert op.amount(sign * share) == pytest.approx(expected[name]), name
    else:
      assert op.amount is None, name


def test_values_at_magnitude_27():
  image = picture()
  for name, function in (
    ("Invert", lambda v: 255 - v),
    ("Posterize", lambda v: v & 0x80),  # 4 - int(3.6) bits
    ("Solarize", lambda v: 255 - v if v >= 25.6 else v),
    ("SolarizeAdd", lambda v: min(v + 99, 255) if v < 128 else v),
  ):
    np.testing.assert_array_equal(run(name, SHARE), through(image, function))


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("AutoContrast", lambda x: ImageOps.autocontrast(x)),
    ("Equalize", lambda x: ImageOps.equalize(x)),
    ("Color", lambda x: ImageEnhance.Color(x).enhance(0.19)),
    ("Contrast", lambda x: ImageEnhance.Contrast(x).enhance(0.19)),
    ("Brightness", lambda x: ImageEnhance.Brightness(x).enhance(0.19)),
    ("Sharpness", lambda x: ImageEnhance.Sharpness(x).enhance(0.19)),
  ],
)
def test_pillow_operations(name, expected):
  image = picture() // 2 + 30
  got = run(name, -SHARE, image).astype(int)
  # Factors that differ in their last bit may truncate to the value below.
  np.testing.assert_allclose(
    got, np.asarray(expected(Image.fromarray(image))), atol=1
  )


def nearest(image, source):
  """The pixel around `source(x, y)` of each centre; black from outside."""
  height, width, _ = image.shape
  out = np.zeros_like(image)
  for y, x in itertools.product(range(height), range(width)):
    sx, sy = (math.floor(v) for v in source(x + 0.5, y + 0.5))
    if 0 <= sx < width and 0 <= sy < height:
      out[y, x] = image[sy, sx]
  return out


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
  "name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"]
)
def test_geometry_against_sampling_one_pixel_after_another(name, sign):
  image = picture()
  height, width, _ = image.shape
  cx, cy = width / 2, height / 2
  cos, sin = math.cos(math.radians(27)), math.sin(math.radians(27))
  source = {
    # Counterclockwise whatever the sign.
    "Rotate": lambda x, y: (
      cx + cos * (x - cx) - sin * (y - cy),
      cy + sin * (x - cx) + cos * (y - cy),
    ),
    "ShearX": lambda x, y: (x + sign * 0.27 * y, y),
    "ShearY": lambda x, y: (x, y + sign * 0.27 * x),
    "TranslateX": lambda x, y: (x + sign * 0.40176 * width, y),
    "TranslateY": lambda x, y: (x, y + sign * 0.40176 * height),
  }[name]
  differs = (run(name, sign * SHARE) != nearest(image, source)).any(-1)
  assert differs.mean() < 0.01  # Pillow's coordinates have 16 binary digits


@pytest.mark.parametrize(
  ("x", "y", "left", "top", "right", "bottom"),
  [
    # 0.32139 * 40 = 12.86 pixels: from 20 - 6.43 to 13 + 12.86, both in.
    (0.5, 0.5, 13, 8, 25, 20),
    (0.0, 0.1, 0, 0, 12, 12),  # moved into the image
    (1.0, 0.9, 33, 20, 39, 29),  # cut off
  ],
)
def test_cutout(x, y, left, top, right, bottom):
  image = picture(30, 40)
  want = image.copy()
  want[top : bottom + 1, left : right + 1] = (125, 123, 114)
  for sign in (-1, 1):
    got = run("Cutout", sign * SHARE, image, x, y)
    np.testing.assert_array_equal(got, want)


def test_draws(monkeypatch):
  calls = []

  def recording(name):
    def function(image, share, *place):
      calls.append((name, share, place))
      return image

    return Op(function, lambda share: share)

  for name in NAMES:
    monkeypatch.setitem(OPS, name, recording(name))
  video, rng, clips = picture(2, 2)[None], np.random.default_rng(0), 6400
  for _ in range(clips):
    RandAugment16(2, 27)(video, rng)
  assert len(calls) == 2 * clips
  names = [name for name, _, _ in calls]
  pairs = collections.Counter(zip(names[::2], names[1::2], strict=True))
  assert len(pairs) == 256  # with replacement, in any order
  assert max(pairs.values()) < 60  # 25 on average
  counts = collections.Counter(names)
  assert 650 < min(counts.values()) <= max(counts.values()) < 950
  shares = np.array([share for _, share, _ in calls])
  assert set(shares.tolist()) == {-0.9, 0.9}
  assert (shares > 0).mean() == pytest.approx(0.5, abs=0.02)
  places = np.array([place for name, _, place in calls if name == "Cutout"])
  assert places.mean(0) == pytest.approx([0.5, 0.5], abs=0.04)
  assert places.std(0) == pytest.approx([12**-0.5] * 2, abs=0.03)
  assert not any(place for name, _, place in calls if name != "Cutout")


@pytest.mark.parametrize("count", [1, 3])
def test_count_and_magnitude(monkeypatch, count):
  seen = []

  def note(image, share):
    seen.append(share)
    return image

  for name in set(NAMES) - {"Cutout"}:
    monkeypatch.setitem(OPS, name, Op(note, abs))
  monkeypatch.delitem(OPS, "Cutout")
  RandAugment16(count, 25)(picture()[None], np.random.default_rng(0))
  assert seen == pytest.approx([25 / 30] * count)


def test_all_frames_change_alike():
  video = np.stack([picture()] * 4)
  changed = 0
  for seed in range(40):
    result = RandAugment16(2, 27)(video, np.random.default_rng(seed))
    assert (result == result[:1]).all()
    changed += not np.array_equal(result, video)
  assert changed >= 38


@pytest.mark.parametrize("name", ["moco_v2", "rand16-n2-m27"])
def test_recipes_are_flipped_last(name):
  recipe = augment.RECIPES[name]
  assert recipe.cropped
  assert recipe.flip_last


def test_the_flip_comes_after_the_operations(tmp_path, monkeypatch):
  root = write_motion_clips(tmp_path / "m", train_clips=4, val_clips=2, size=32)
  manifest = load_manifest(root, "train")
  config = types.SimpleNamespace(
    batch_size=2,
    frames=4,
    image_size=24,
    sampling="snippets",
    stride=1,
    segments=2,
    crop="inception",
    area=(0.2, 1.0),
    flip=1.0,
    no_flip_labels=(),
    auto_augment="rand16-n2-m27",
    erase=0.0,
    decoder="planned",
    threads=0,
    prefetch=1,
    max_bad_share=0.01,
  )

  def mark(video, rng):
    assert video.shape == (4, 24, 24, 3)
    video = video.copy()
    video[:, :, :3] = 255
    return video

  def first(flip, change):
    recipe = augment.Recipe(True, lambda seed: change, flip_last=True)
    monkeypatch.setitem(augment.RECIPES, "rand16-n2-m27", recipe)
    config.flip = flip
    with train_batches(manifest, config, seed=3) as batches:
      return next(batches)["video"]

  marked = first(1.0, mark)
  assert (marked[:, :, :, -3:] == 255).all()
  np.testing.assert_array_equal(marked, first(0.0, mark)[:, :, :, ::-1])
  # What is not marked is the flipped crop itself.
  plain = first(1.0, lambda video, rng: video)
  np.testing.assert_array_equal(marked[:, :, :, :-3], plain[:, :, :, :-3])
