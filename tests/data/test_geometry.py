import collections
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidjax.data.geometry import (
  CROPS,
  CutResize,
  ResizeCut,
  eval_crops,
  jitter,
  multiscale,
  resize,
  shift,
  short_side,
)

sides = st.integers(8, 400)
seeds = st.integers(0, 2**32 - 1)


def picture(height, width, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def naive_bilinear(image, height, width):
  """Half-pixel bilinear sampling, one output pixel at a time."""
  h, w = image.shape[:2]
  out = np.zeros((height, width, 3))
  for i in range(height):
    for j in range(width):
      y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
      x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
      a, b = int(y), int(x)
      c, d = min(a + 1, h - 1), min(b + 1, w - 1)
      u, v = y - a, x - b
      top = (1 - v) * image[a, b] + v * image[a, d]
      out[i, j] = (1 - u) * top + u * ((1 - v) * image[c, b] + v * image[c, d])
  return out


def draws(fn, height, width, count, **kwargs):
  rng = np.random.default_rng(0)
  return [fn(rng, height, width, **kwargs) for _ in range(count)]


def test_multiscale_golden(shared):
  table = np.load(shared / "golden/xvit/misc.npz")["multiscale_crop_340x256"]
  crops = draws(multiscale, 256, 340, 12_000, size=224, short_sides=(0, 0))
  got = {(c.width, c.height, c.left, c.top) for c in crops}
  assert got == set(map(tuple, table.tolist()))


def test_multiscale_is_uniform_over_sides_and_places():
  crops = draws(multiscale, 400, 400, 13_000, size=100, short_sides=(0, 0))
  shapes = collections.Counter((c.height, c.width) for c in crops)
  sides = (400, 350, 300, 264)
  assert set(shapes) == {
    (a, b)
    for a in sides
    for b in sides
    if abs(sides.index(a) - sides.index(b)) < 2
  }
  assert all(1100 < n < 1500 for n in shapes.values())
  places = collections.Counter(
    (c.top, c.left) for c in crops if (c.height, c.width) == (300, 300)
  )
  grid = {(y, x) for y in (0, 50, 100) for x in (0, 50, 100)}
  assert set(places) == grid | {(y, x) for y in (25, 75) for x in (25, 75)}


@given(sides, sides, st.integers(4, 300), seeds)
def test_multiscale_stays_inside(height, width, size, seed):
  rng = np.random.default_rng(seed)
  c = multiscale(rng, height, width, size=size, short_sides=(0, 0))
  assert 0 <= c.top <= c.top + c.height <= height
  assert 0 <= c.left <= c.left + c.width <= width
  assert min(c.height, c.width) > 0


def test_cut_resize_is_pillow():
  frame = picture(90, 120)
  got = CutResize(top=7, left=11, height=60, width=50, size=32)(frame)
  image = Image.fromarray(frame).crop((11, 7, 61, 67))
  want = image.resize((32, 32), Image.Resampling.BILINEAR)
  np.testing.assert_array_equal(got, np.asarray(want))


@given(sides, sides, seeds)
def test_jitter(height, width, seed):
  rng = np.random.default_rng(seed)
  c = jitter(rng, height, width, size=32, short_sides=(40, 56))
  short = min(c.height, c.width)
  assert 40 <= short <= 56
  assert (c.height, c.width) == short_side(height, width, short)
  for offset, length in ((c.top, c.height), (c.left, c.width)):
    assert 0 <= offset <= max(length - 32 - 1, 0)


def test_jitter_draws():
  crops = draws(jitter, 100, 100, 3000, size=32, short_sides=(32, 36))
  # round(uniform): the two end values get half the share of the others.
  short = collections.Counter(c.height for c in crops)
  assert set(short) == set(range(32, 37))
  assert short[32] < short[33] * 0.75
  assert {c.top for c in crops if c.height == 36} == {0, 1, 2, 3}


def test_jitter_that_is_too_small():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match=r"\(30, 40\).*crops of 32"):
    jitter(rng, 50, 50, size=32, short_sides=(30, 40))


def test_shift():
  crops = draws(shift, 64, 64, 800, size=64, short_sides=(0, 0))
  assert {(c.height, c.width) for c in crops} == {(73, 73)}
  assert {c.top for c in crops} == {c.left for c in crops} == set(range(10))
  assert {c(picture(64, 64)).shape for c in crops[:20]} == {(64, 64, 3)}


def test_eval_crops_golden(shared):
  golden = np.load(shared / "golden/xvit/misc.npz")
  for kind in ("wide", "tall", "square"):
    video = golden[f"spatial/{kind}/in"].transpose(1, 2, 3, 0)  # (t, h, w, c)
    crops = eval_crops(*video.shape[1:3], size=32, crops=3)
    shape = tuple(golden[f"spatial/{kind}/resized_shape"][-2:])
    for number, crop in enumerate(crops):
      assert (crop.height, crop.width) == shape
      want = golden[f"spatial/{kind}/crop{number}"].transpose(1, 2, 3, 0)
      for frame, expected in zip(video, want, strict=True):
        got = crop(np.ascontiguousarray(frame))
        np.testing.assert_allclose(got, expected, atol=1e-5)


@given(sides, sides, st.sampled_from([16, 32, 224]))
def test_eval_crops(height, width, size):
  left, centre, right = eval_crops(height, width, size=size, crops=3)
  assert [centre] == eval_crops(height, width, size=size, crops=1)
  if height > width:
    got = [c.top for c in (left, centre, right)]
    assert {c.left for c in (left, centre, right)} == {0}
    free = left.height - size
  else:
    got = [c.left for c in (left, centre, right)]
    assert {c.top for c in (left, centre, right)} == {0}
    free = left.width - size
  assert got == [0, math.ceil(free / 2), free]
  assert min(left.height, left.width) == size


def test_eval_crops_number():
  with pytest.raises(ValueError, match=r"1 \(centre\) or 3 crops.*not 2"):
    eval_crops(40, 40, size=32, crops=2)


@pytest.mark.parametrize(
  ("height", "width", "short", "want"),
  [
    (256, 340, 224, (224, 297)),
    (340, 256, 224, (297, 224)),
    (45, 80, 32, (32, 56)),
    (64, 64, 73, (73, 73)),
  ],
)
def test_short_side(height, width, short, want):
  assert short_side(height, width, short) == want


@pytest.mark.parametrize("shape", [(13, 20), (30, 17), (17, 23)])
def test_resize(shape):
  frame = picture(17, 23)
  want = naive_bilinear(frame, *shape)
  exact = resize(frame.astype(np.float32), *shape)
  np.testing.assert_allclose(exact, want, atol=1e-3)  # 4e-6 of the range
  assert np.abs(resize(frame, *shape) - want).max() < 1


def test_resize_cut():
  frame = picture(20, 30)
  crop = ResizeCut(height=24, width=36, top=3, left=5, size=16)
  scaled = resize(frame, 24, 36)
  np.testing.assert_array_equal(crop(frame), scaled[3:19, 5:21])
  clip = np.stack([scaled, scaled[:, ::-1]])
  np.testing.assert_array_equal(crop.cut(clip), clip[:, 3:19, 5:21])


def test_table():
  assert set(CROPS) == {"multiscale", "jitter", "shift"}
  for crop in CROPS.values():
    same = [
      crop(np.random.default_rng(5), 50, 70, size=32, short_sides=(36, 40))
      for _ in range(2)
    ]
    assert same[0] == same[1]
    assert same[0](picture(50, 70)).shape == (32, 32, 3)
