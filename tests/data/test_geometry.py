import collections
import math
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidjax.data.geometry import (
  CROPS,
  CutResize,
  ResizeCut,
  ResizeCutResize,
  eval_crops,
  inception,
  jitter,
  multiscale,
  resize,
  resize_antialiased,
  resized,
  shift,
  short_side,
  short_side_exact,
  short_side_rounded,
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
  crops = draws(multiscale, 256, 340, 12_000, size=224)
  got = {(c.width, c.height, c.left, c.top) for c in crops}
  assert got == set(map(tuple, table.tolist()))


def test_multiscale_is_uniform_over_sides_and_places():
  crops = draws(multiscale, 400, 400, 13_000, size=100)
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
  c = multiscale(rng, height, width, size=size)
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
  crops = draws(shift, 64, 64, 800, size=64)
  assert {(c.height, c.width) for c in crops} == {(73, 73)}
  assert {c.top for c in crops} == {c.left for c in crops} == set(range(10))
  assert {c(picture(64, 64)).shape for c in crops[:20]} == {(64, 64, 3)}


def naive_rounded(height, width, short):
  """The size that mmcv gives a frame: the factor first, then each side."""
  factor = short / (height if height < width else width)
  return math.floor(height * factor + 0.5), math.floor(width * factor + 0.5)


@given(sides, sides, st.integers(8, 256), seeds)
def test_resized(height, width, short, seed):
  rng = np.random.default_rng(seed)
  c = resized(rng, height, width, size=24, short=short)
  assert (c.height, c.width) == naive_rounded(height, width, short)
  assert min(c.height, c.width) == short
  top, left, rows, columns = c.box
  assert 0 <= top <= c.height - rows
  assert 0 <= left <= c.width - columns
  side = min(c.height, c.width)
  central = ((c.height - side) // 2, (c.width - side) // 2, side, side)
  if c.box != central:
    area = c.height * c.width
    assert (rows - 0.5) * (columns - 0.5) <= area
    assert (rows + 0.5) * (columns + 0.5) >= 0.08 * area
    assert (columns - 0.5) / (rows + 0.5) <= 4 / 3
    assert (columns + 0.5) / (rows - 0.5) >= 3 / 4


def test_resized_draws_are_uniform():
  crops = draws(resized, 400, 600, 6000, size=224, short=2000)
  boxes = np.array([c.box for c in crops])
  shares = boxes[:, 2] * boxes[:, 3] / (2000 * 3000)
  # Larger boxes may be taller than the frame, and are drawn again then.
  small = shares < 0.4
  assert np.mean(shares < 0.24) == pytest.approx(small.mean() / 2, abs=0.02)
  top, left, rows, columns = boxes[small].T
  logs = np.log(columns / rows)
  assert logs.mean() == pytest.approx(0, abs=0.01)
  assert logs.std() == pytest.approx(math.log(4 / 3) / 3**0.5, abs=0.01)
  for place in (top / (2000 - rows), left / (3000 - columns)):
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    assert place.std() == pytest.approx(12**-0.5, abs=0.01)


def test_resized_reaches_all_borders():
  crops = draws(resized, 8, 12, 3000, size=8, short=8)
  boxes = np.array([c.box for c in crops])
  boxes = boxes[boxes[:, 2] * boxes[:, 3] < 20]
  assert boxes[:, 0].min() == boxes[:, 1].min() == 0
  assert (boxes[:, 0] + boxes[:, 2]).max() == 8
  assert (boxes[:, 1] + boxes[:, 3]).max() == 12


def test_resized_falls_back_to_the_central_square():
  # No box of 8 % of this frame is as flat as it would have to be.
  crops = draws(resized, 10, 400, 20, size=8, short=10)
  assert {c.box for c in crops} == {(0, 195, 10, 10)}
  crops = draws(resized, 401, 10, 20, size=8, short=10)
  assert {c.box for c in crops} == {(195, 0, 10, 10)}


def test_resized_takes_the_range_of_the_area():
  crops = draws(resized, 90, 90, 400, size=8, short=300, area=(0.2, 0.3))
  shares = [c.box[2] * c.box[3] / 300**2 for c in crops]
  assert 0.195 < min(shares) < 0.21
  assert 0.29 < max(shares) < 0.305


@given(sides, sides, seeds)
def test_inception_is_the_box_of_resized(height, width, seed):
  c = inception(
    np.random.default_rng(seed), height, width, size=24, area=(0.2, 1)
  )
  assert c.size == 24
  other = resized(
    np.random.default_rng(seed),
    height,
    width,
    size=24,
    short=min(height, width),
    area=(0.2, 1),
  )
  box = (c.top, c.left, c.height, c.width)
  side = min(height, width)
  if other.box != ((height - side) // 2, (width - side) // 2, side, side):
    assert box == other.box
  assert 0 <= c.top <= height - c.height
  assert 0 <= c.left <= width - c.width


@pytest.mark.parametrize(
  ("height", "width", "box"),
  [
    (10, 400, (0, 193, 10, 13)),
    (401, 10, (194, 0, 13, 10)),
    (37, 900, (0, 425, 37, 49)),
    (90, 12, (37, 0, 16, 12)),
    (100, 130, (0, 0, 100, 130)),
    (33, 49, (0, 2, 33, 44)),
  ],
)
def test_inception_falls_back_to_the_largest_central_box(height, width, box):
  """The boxes of torchvision; no box of twice the frame fits."""
  (c,) = draws(inception, height, width, 1, size=8, area=(2, 2))
  assert (c.top, c.left, c.height, c.width) == box


@given(sides, sides, st.integers(32, 80))
def test_evaluation_of_torchvision(height, width, short):
  """Its Resize and CenterCrop on an image of Pillow."""
  frame = picture(height, width)
  (crop,) = eval_crops(
    height, width, size=32, crops=1, style="torchvision", short=short
  )
  long = int(short * max(height, width) / min(height, width))
  size = (short, long) if height > width else (long, short)
  scaled = np.asarray(
    Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)
  )
  top, left = (round((side - 32) / 2.0) for side in scaled.shape[:2])
  want = scaled[top : top + 32, left : left + 32]
  np.testing.assert_array_equal(crop(frame), want)


def test_resize_antialiased():
  # Columns of a checkerboard average out; plain bilinear scaling keeps them.
  frame = np.zeros((32, 48, 3), np.uint8)
  frame[:, ::2] = 200
  got = resize_antialiased(frame, 8, 12)
  assert got.shape == (8, 12, 3)
  assert np.abs(got.astype(int) - 100).max() < 10
  np.testing.assert_array_equal(resize_antialiased(frame, 32, 48), frame)


def test_resize_cut_resize():
  frame = picture(20, 30)
  crop = ResizeCutResize(height=24, width=36, box=(3, 5, 10, 14), size=16)
  scaled = naive_bilinear(frame, 24, 36)
  want = naive_bilinear(scaled[3:13, 5:19], 16, 16)
  exact = crop(frame.astype(np.float32))
  np.testing.assert_allclose(exact, want, atol=1e-3)
  assert np.abs(crop(frame) - want).max() < 1.5  # rounded twice


@given(sides, sides, st.integers(8, 300))
def test_short_side_rounded(height, width, short):
  assert short_side_rounded(height, width, short) == naive_rounded(
    height, width, short
  )


def test_short_side_rounded_values():
  assert short_side_rounded(240, 320, 256) == (256, 341)
  assert short_side_rounded(100, 75, 256) == (341, 256)
  assert short_side_rounded(240, 427, 224) == (224, 399)  # 398.53


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


@given(sides, sides, st.sampled_from([16, 32, 224]), st.integers(0, 40))
def test_eval_crops_of_mmaction(height, width, size, more):
  short = size + more
  options = {"size": size, "style": "mmaction", "short": short}
  crops = eval_crops(height, width, crops=3, **options)
  scaled = naive_rounded(height, width, short)
  assert all((c.height, c.width) == scaled for c in crops)
  step = (max(scaled) - size) // 2
  along = [max(c.top, c.left) for c in crops]
  across = [min(c.top, c.left) for c in crops]
  if more == 0:
    assert across == [0, 0, 0]
    assert along == [0, 2 * step, step]
    moving = "top" if height > width else "left"
    assert [getattr(c, moving) for c in crops] == along
  (centre,) = eval_crops(height, width, crops=1, **options)
  assert centre == crops[2]
  assert centre.top == (scaled[0] - size) // 2
  assert centre.left == (scaled[1] - size) // 2


def test_eval_crops_of_a_larger_short_side():
  # 256 x 341: the centre rounds up here and down there.
  def places(style, crops):
    return [
      (c.top, c.left)
      for c in eval_crops(
        240, 320, size=224, crops=crops, style=style, short=255
      )
    ]

  assert places("slowfast", 1) == [(16, 58)]
  assert places("slowfast", 3) == [(16, 0), (16, 58), (16, 116)]
  assert places("mmaction", 1) == [(15, 58)]
  assert places("mmaction", 3) == [(15, 0), (15, 116), (15, 58)]


@given(sides, sides, st.sampled_from([16, 32, 224]))
def test_short_side_0_is_the_size(height, width, size):
  for style in ("slowfast", "mmaction"):
    assert eval_crops(
      height, width, size=size, crops=3, style=style, short=size
    ) == eval_crops(height, width, size=size, crops=3, style=style)


def test_eval_crops_of_torchvision():
  # 34 x 61 with squares of 32: 1 and 14.5 pixels, halves to even.
  crops = eval_crops(68, 123, size=32, crops=3, style="torchvision", short=34)
  assert [(c.top, c.left) for c in crops] == [(1, 0), (1, 14), (1, 29)]
  assert all(c.antialias for c in crops)
  assert not eval_crops(68, 123, size=32, crops=1)[0].antialias


@given(sides, sides, st.integers(8, 256))
def test_short_side_exact(height, width, short):
  h, w = short_side_exact(height, width, short)
  assert min(h, w) == short
  assert max(h, w) == int(short * max(height, width) / min(height, width))


def test_eval_crops_style():
  with pytest.raises(
    ValueError, match=r"eval\.crop_style is 'ten'.*'mmaction'"
  ):
    eval_crops(40, 40, size=32, crops=1, style="ten")


def test_eval_crops_that_do_not_fit():
  with pytest.raises(ValueError, match=r"eval\.short_side is 30.*crops of 32"):
    eval_crops(40, 40, size=32, crops=1, short=30)


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


def options(**changes):
  base = {
    "image_size": 32,
    "jitter": (36, 40),
    "resize_side": 48,
    "area": (0.08, 1),
  }
  return types.SimpleNamespace(**base | changes)


@pytest.mark.parametrize("name", CROPS)
def test_table(name):
  crop = CROPS[name](options())
  same = [crop(np.random.default_rng(5), 50, 70) for _ in range(2)]
  assert same[0] == same[1]
  assert same[0](picture(50, 70)).shape == (32, 32, 3)


def test_names_of_the_table():
  assert set(CROPS) == {"multiscale", "jitter", "shift", "resized", "inception"}
  rng = np.random.default_rng(0)
  assert CROPS["resized"](options(resize_side=36))(rng, 50, 70).height == 36
  for name in ("resized", "inception"):
    crop = CROPS[name](options(area=[1, 1]))
    assert crop.keywords["area"] == (1, 1)


@pytest.mark.parametrize("area", [(0, 1), (0.5, 0.2), (0.2, 1.5)])
@pytest.mark.parametrize("name", ["resized", "inception"])
def test_wrong_area(name, area):
  with pytest.raises(
    ValueError, match=r"data\.area is \(.*above 0 and at most"
  ):
    CROPS[name](options(area=area))


@pytest.mark.parametrize(
  ("name", "want"),
  [
    (
      "multiscale",
      [CutResize(12, 0, 87, 75, 64), CutResize(18, 57, 75, 64, 64)],
    ),
    (
      "jitter",
      [ResizeCut(80, 112, 12, 45, 64), ResizeCut(73, 102, 7, 36, 64)],
    ),
    ("shift", [ResizeCut(73, 102, 4, 19, 64), ResizeCut(73, 102, 7, 37, 64)]),
    (
      "resized",
      [
        ResizeCutResize(48, 67, (0, 2, 37, 48), 64),
        ResizeCutResize(48, 67, (3, 10, 35, 43), 64),
      ],
    ),
  ],
)
def test_draws_are_those_of_earlier_versions(name, want):
  crop = CROPS[name](options(image_size=64, jitter=(70, 90)))
  rng = np.random.default_rng(1)
  assert [crop(rng, 100, 140) for _ in want] == want
