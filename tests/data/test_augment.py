import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from vidjax.data import augment
from vidjax.data.auto_augment import auto_augment
from vidjax.data.colour import moco_v2
from vidjax.data.imgaug import ImgAug
from vidjax.data.photometric import photometric
from vidjax.data.rand_augment import rand_augment
from vidjax.data.rand_augment16 import RandAugment16


def test_recipes_and_their_places():
  assert {name: r.cropped for name, r in augment.RECIPES.items()} == {
    "none": True,
    "v0": False,
    "photometric": False,
    "imgaug": True,
    "rand-m7-n4-mstd0.5-inc1": True,
    "moco_v2": True,
    "rand16-n2-m27": True,
  }
  last = {name for name, r in augment.RECIPES.items() if r.flip_last}
  assert last == {"moco_v2", "rand16-n2-m27"}
  built = {name: r.build(3) for name, r in augment.RECIPES.items()}
  assert built["v0"] is auto_augment
  assert built["photometric"] is photometric
  assert built["rand-m7-n4-mstd0.5-inc1"] is rand_augment
  assert isinstance(built["imgaug"], ImgAug)
  assert built["moco_v2"] is moco_v2
  assert built["rand16-n2-m27"] == RandAugment16(count=2, magnitude=27)


def test_no_recipe_changes_and_draws_nothing():
  video = np.zeros((2, 3, 4, 3), np.uint8)
  rng = np.random.default_rng(0)
  assert augment.RECIPES["none"].build(0)(video, rng) is video
  assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("name", augment.RECIPES)
def test_recipes_keep_shape_and_argument_and_repeat(name):
  video = np.random.default_rng(0).integers(0, 256, (3, 18, 22, 3), np.uint8)
  before = video.copy()
  first, second = (augment.RECIPES[name].build(5) for _ in "ab")
  results = []
  for seed in range(40):
    result = first(video, np.random.default_rng(seed))
    assert result.shape == video.shape
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(
      result, second(video, np.random.default_rng(seed))
    )
    results.append(result.tobytes())
  np.testing.assert_array_equal(video, before)
  assert (len(set(results)) > 10) == (name != "none")


def test_erase_boxes_are_those_of_earlier_versions():
  boxes = [
    augment.erase_box(np.random.default_rng(s), 50, 60).tolist()
    for s in range(3)
  ]
  assert boxes == [[9, 1, 19, 34], [0, 6, 40, 14], [15, 31, 14, 22]]


@hypothesis.given(
  seed=st.integers(0, 2**32),
  height=st.integers(8, 400),
  width=st.integers(8, 400),
)
def test_erase_box_has_the_area_and_shape_of_the_recipe(seed, height, width):
  box = augment.erase_box(np.random.default_rng(seed), height, width)
  if not box.any():
    return
  top, left, h, w = box.tolist()
  assert 0 <= top <= height - h
  assert 0 <= left <= width - w
  assert h < height
  assert w < width
  assert (h - 0.5) * (w - 0.5) <= height * width / 3
  assert (h + 0.5) * (w + 0.5) >= 0.02 * height * width
  assert (h - 0.5) / (w + 0.5) <= 1 / 0.3
  assert (h + 0.5) / max(w - 0.5, 1e-9) >= 0.3


def test_erase_box_is_uniform_in_area_place_and_log_aspect():
  rng = np.random.default_rng(0)
  # Wide enough a frame would reject shapes; here 2 % of the draws are lost.
  boxes = np.stack([augment.erase_box(rng, 1000, 1000) for _ in range(4000)])
  top, left, h, w = boxes.T
  area = h * w / 1e6
  assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
  assert np.quantile(area, 0.25) == pytest.approx(
    0.02 + 0.25 * 0.3133, abs=0.01
  )
  assert np.log(h / w).mean() == pytest.approx(0, abs=0.05)
  assert np.log(h / w).std() == pytest.approx(-math.log(0.3) / 3**0.5, abs=0.05)
  for place in (top / (1000 - h), left / (1000 - w)):
    assert place.mean() == pytest.approx(0.5, abs=0.03)
    assert place.std() == pytest.approx(12**-0.5, abs=0.02)


def test_erase_box_reaches_all_borders():
  rng = np.random.default_rng(0)
  boxes = np.stack([augment.erase_box(rng, 6, 9) for _ in range(500)])
  top, left, h, w = boxes[boxes.any(axis=1)].T
  for start, side, end in ((top, h, 6), (left, w, 9)):
    assert start.min() == 0
    assert (start + side).max() == end


def test_erase_box_gives_up_on_a_frame_that_is_too_small():
  box = augment.erase_box(np.random.default_rng(0), 2, 1000)
  np.testing.assert_array_equal(box, np.zeros(4, np.int32))
