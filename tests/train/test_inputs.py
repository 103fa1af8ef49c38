import jax
import jax.numpy as jnp
import numpy as np

from vidjax.train.inputs import erase, normalise

RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalise_equals_a_loop_over_channels():
  pixels = RNG.integers(0, 256, (2, 3, 4, 5, 3)).astype(np.uint8)
  pixels[0, 0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
  ours = normalise(jnp.asarray(pixels), MEAN, STD)
  assert ours.dtype == jnp.float32
  expected = np.empty(pixels.shape)
  for c in range(3):
    expected[..., c] = (pixels[..., c] / 255.0 - MEAN[c]) / STD[c]
  np.testing.assert_allclose(ours, expected, rtol=2e-6, atol=2e-6)


def test_normalise_keeps_any_leading_axes():
  pixels = RNG.integers(0, 256, (1, 2, 3, 4, 5, 3)).astype(np.uint8)
  whole = normalise(jnp.asarray(pixels), MEAN, STD)
  for view in range(2):
    part = normalise(jnp.asarray(pixels[:, view]), MEAN, STD)
    np.testing.assert_array_equal(whole[:, view], part)


def test_erase_equals_a_loop_over_pixels():
  video = RNG.standard_normal((6, 2, 5, 7, 3)).astype(np.float32)
  boxes = [
    (1, 2, 3, 4),  # inside
    (0, 0, 5, 7),  # everything
    (0, 0, 0, 0),  # nothing
    (4, 6, 1, 1),  # the last pixel
    (2, 3, 9, 9),  # beyond the border
    (2, 3, 2, 0),  # empty, though it has a height
  ]
  expected = video.copy()
  for clip, (y0, x0, height, width) in zip(expected, boxes, strict=True):
    for y in range(y0, min(y0 + height, 5)):
      for x in range(x0, min(x0 + width, 7)):
        clip[:, y, x] = 0
  ours = jax.jit(erase)(jnp.asarray(video), jnp.asarray(boxes, jnp.int32))
  np.testing.assert_array_equal(ours, expected)


def test_what_is_erased_does_not_reach_the_result():
  video = jnp.full((1, 1, 2, 2, 3), jnp.nan)
  assert not erase(video, jnp.asarray([[0, 0, 2, 2]])).any()
