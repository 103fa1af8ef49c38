import collections
import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from PIL.Image import Resampling

from vidjax.data import rand_augment as module
from vidjax.data.rand_augment import OPS, rand_augment


def picture(height=12, width=17, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def run(name, level, *options):
  return np.asarray(OPS[name](Image.fromarray(picture()), level, *options))


def test_the_operations_are_timms():
  names = (
    "AutoContrast Equalize Invert Rotate PosterizeIncreasing "
    "SolarizeIncreasing SolarizeAdd ColorIncreasing ContrastIncreasing "
    "BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel "
    "TranslateYRel"
  )
  assert list(OPS) == names.split()
  moving = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
  assert {name for name, op in OPS.items() if op.geometric} == moving


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("level", [0, 2.4, 2.5, 6.3, 7, 9.9, 10])
def test_amounts(level, sign):
  """Against timm's formulas, level by level."""
  share = level / 10
  expected = {
    "Rotate": sign * share * 30,
    "PosterizeIncreasing": 4 - int(share * 4),
    "SolarizeIncreasing": 256 - int(share * 256),
    "SolarizeAdd": int(share * 110),
    "ShearX": sign * share * 0.3,
    "ShearY": sign * share * 0.3,
    "TranslateXRel": sign * share * 0.45,
    "TranslateYRel": sign * share * 0.45,
  }
  for name in ("Color", "Contrast", "Brightness", "Sharpness"):
    expected[f"{name}Increasing"] = 1 + sign * share * 0.9
  for name, op in OPS.items():
    if name in expected:
      assert op.amount is not None
      assert op.amount(sign * level) == pytest.approx(expected[name]), name
    else:
      assert op.amount is None, name


@pytest.mark.parametrize("level", [-7, 7, 10])
@pytest.mark.parametrize(
  ("name", "enhancer"),
  [
    ("ColorIncreasing", ImageEnhance.Color),
    ("ContrastIncreasing", ImageEnhance.Contrast),
    ("BrightnessIncreasing", ImageEnhance.Brightness),
    ("SharpnessIncreasing", ImageEnhance.Sharpness),
  ],
)
def test_enhancements_are_those_of_their_names(name, enhancer, level):
  image = Image.fromarray(picture())
  np.testing.assert_array_equal(
    run(name, level), np.asarray(enhancer(image).enhance(1 + 0.09 * level))
  )


def test_brightness_and_contrast_blend_with_black_and_mean_grey():
  image = picture().astype(float)
  bright = (image * 1.63).clip(0, 255)
  np.testing.assert_allclose(run("BrightnessIncreasing", 7), bright, atol=1)
  mean = np.round((image @ (0.299, 0.587, 0.114)).mean())
  contrast = (mean + (image - mean) * 0.37).clip(0, 255)
  np.testing.assert_allclose(run("ContrastIncreasing", -7), contrast, atol=1)


def test_translations_move_by_a_share_of_the_side():
  image = picture(20, 40)
  pil = Image.fromarray(image)
  right = np.asarray(OPS["TranslateXRel"](pil, -10 / 9, Resampling.BILINEAR))
  np.testing.assert_array_equal(right[:, 2:], image[:, :-2])  # 5 % of 40
  assert (right[:, :2] == 128).all()
  up = np.asarray(OPS["TranslateYRel"](pil, 10 / 9, Resampling.BILINEAR))
  np.testing.assert_array_equal(up[:-1], image[1:])
  assert (up[-1] == 128).all()


class Recorder:
  """Stands for the operations, and notes with what they are called."""

  def __init__(self, monkeypatch):
    self.calls = []
    for name, op in OPS.items():
      monkeypatch.setitem(OPS, name, self.recording(name, op.geometric))

  def recording(self, name, geometric):
    def function(image, level, *options):
      self.calls.append((name, level, options))
      return image

    return module.Op(function, lambda level: level, geometric)


def test_draws(monkeypatch):
  recorder = Recorder(monkeypatch)
  video, rng, clips = picture(2, 2)[None], np.random.default_rng(0), 6000
  lengths = []
  for _ in range(clips):
    before = len(recorder.calls)
    rand_augment(video, rng)
    lengths.append(len(recorder.calls) - before)
  # Four draws, each applied with probability 1/2.
  for length, share in zip(range(5), (1, 4, 6, 4, 1), strict=True):
    assert lengths.count(length) / clips == pytest.approx(share / 16, abs=0.025)
  names = collections.Counter(name for name, _, _ in recorder.calls)
  assert set(names) == set(OPS)
  for count in names.values():
    assert count == pytest.approx(clips * 2 / 15, abs=5 * math.sqrt(clips / 7))
  levels = np.array([level for _, level, _ in recorder.calls])
  assert np.abs(levels).mean() == pytest.approx(7, abs=0.03)
  assert np.abs(levels).std() == pytest.approx(0.5, abs=0.03)
  assert (levels > 0).mean() == pytest.approx(0.5, abs=0.03)
  for name, _, options in recorder.calls:
    moves = name == "Rotate" or name.startswith(("Shear", "Translate"))
    assert options == ((Resampling.BICUBIC,) if moves else ())


def test_operations_are_drawn_with_replacement(monkeypatch):
  recorder = Recorder(monkeypatch)
  twice = 0
  for seed in range(400):
    recorder.calls.clear()
    rand_augment(picture(2, 2)[None], np.random.default_rng(seed))
    names = [name for name, _, _ in recorder.calls]
    twice += len(names) > len(set(names))
  # 6 pairs, each applied and equal with probability 1/4 / 15: about 10 %.
  assert 15 < twice < 70


def test_levels_are_clipped(monkeypatch):
  recorder = Recorder(monkeypatch)
  monkeypatch.setattr(module, "_SPREAD", 30.0)
  rng = np.random.default_rng(0)
  for _ in range(50):
    rand_augment(picture(2, 2)[None], rng)
  sizes = {abs(level) for _, level, _ in recorder.calls}
  assert min(sizes) == 0
  assert max(sizes) == 10


def test_all_frames_change_alike():
  video = np.stack([picture()] * 5)
  changed = 0
  for seed in range(60):
    result = rand_augment(video, np.random.default_rng(seed))
    assert (result == result[:1]).all()
    changed += not np.array_equal(result, video)
  assert 40 < changed < 60


def test_nothing_to_apply_returns_the_argument():
  video = picture()[None]
  same = [
    rand_augment(video, np.random.default_rng(seed)) is video
    for seed in range(200)
  ]
  assert 3 < sum(same) < 28  # one in 16
