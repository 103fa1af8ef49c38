import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.mixing import check_segment, mix_frames, mixing_offsets
from vidjax.tools.golden import read_case


@dataclasses.dataclass(frozen=True)
class Mix:
  shift_div: int = 8
  window: int = 1
  boundary_only: bool = False
  segment: int | None = None
  heads: int | None = None

  def __call__(self, x):
    return mix_frames(x, **dataclasses.asdict(self))

  def oracle(self, x):
    return oracles.mix(x, **dataclasses.asdict(self))

  def width(self, channels):
    size = channels // (self.heads or 1)
    offsets = len(mixing_offsets(self.window, self.boundary_only))
    return 2 * size // (self.shift_div * offsets) if offsets else 0


def every_mix(segments):
  windows = [(w, False) for w in range(4)] + [(1, True), (2, True), (3, True)]
  return tuple(
    Mix(shift_div, window, boundary_only, segment, heads)
    for shift_div in (2, 4, 5, 8)
    for window, boundary_only in windows
    for segment in segments
    for heads in (None, 3)
  )


@functools.partial(oracles.jit, static_argnums=0)
def run(mixes, x):
  return [mix(x) for mix in mixes]


@pytest.mark.parametrize(
  ("frames", "channels", "segments"),
  [
    (1, 24, (None,)),  # no neighbour at all
    (2, 30, (None, 1)),  # shorter than the window
    (5, 27, (None,)),  # odd, and nothing divides 27 channels evenly
    (8, 48, (None, 4)),
  ],
)
def test_equals_the_loop(frames, channels, segments):
  x = oracles.normal(2, frames, 3, channels)
  mixes = every_mix(segments)
  for mix, y in zip(mixes, run(mixes, x), strict=True):
    np.testing.assert_array_equal(y, mix.oracle(x), err_msg=str(mix))


@pytest.mark.parametrize(("shift_div", "f"), [(2, 12), (4, 6), (5, 4), (8, 3)])
def test_window_one_is_the_rule_of_the_official_code(shift_div, f):
  k = oracles.normal(2, 4, 3, 24)
  y = run((Mix(shift_div),), k)[0]
  want = k.copy()  # [2f, c) stay
  want[:, :-1, :, :f] = k[:, 1:, :, :f]
  want[:, -1, :, :f] = 0
  want[:, 1:, :, f : 2 * f] = k[:, :-1, :, f : 2 * f]
  want[:, 0, :, f : 2 * f] = 0
  np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize(
  ("window", "boundary_only", "offsets"),
  [
    (0, False, ()),
    (0, True, ()),
    (1, False, (1, -1)),
    (1, True, (1, -1)),
    (3, False, (1, -1, 2, -2, 3, -3)),
    (3, True, (3, -3)),
  ],
)
def test_offsets(window, boundary_only, offsets):
  assert mixing_offsets(window, boundary_only) == offsets


@pytest.mark.parametrize(
  "name", ["tiny_ta_div8", "tiny_ta_div4", "tiny_div5_floor", "tiny_odd5"]
)
def test_official_keys(shared, name):
  case = read_case(shared / f"golden/xvit/{name}.npz")
  official = case.official

  def tokens(activation):
    folded = case.arrays[f"act/block0.{activation}"]  # (b t) g n d
    merged = folded.transpose(0, 2, 1, 3)
    return merged.reshape(
      official["batch"], official["frames"], *merged.shape[1:2], -1
    )

  mix = Mix(official["shift_div"], segment=official["num_segments"])
  np.testing.assert_array_equal(
    run((mix,), tokens("k_raw"))[0], tokens("k_mixed")
  )


FRAMES, CHANNELS = 8, 48
# A few, so that hypothesis compiles a few programs.
mixes = st.sampled_from(
  [
    Mix(8, 1),
    Mix(4, 2),
    Mix(4, 2, segment=4),
    Mix(2, 3, boundary_only=True),
    Mix(5, 1, segment=2, heads=3),
    Mix(2, 2, segment=2, heads=4),
  ]
)
seeds = st.integers(0, 2**31 - 1)
property_of = settings(deadline=None, max_examples=20)


@property_of
@given(mix=mixes, seed=seeds, a=st.integers(-8, 8), b=st.integers(-8, 8))
def test_linear(mix, seed, a, b):
  rng = np.random.default_rng(seed)
  x, y = rng.integers(-99, 99, (2, 2, FRAMES, 2, CHANNELS)).astype(np.float32)
  got = run((mix,), a * x + b * y)[0]
  want = a * run((mix,), x)[0] + b * run((mix,), y)[0]
  np.testing.assert_array_equal(got, want)


@property_of
@given(mix=mixes, seed=seeds)
def test_a_still_clip_changes_near_borders_only(mix, seed):
  frame = oracles.normal(2, 1, 2, CHANNELS, seed=seed)
  x = np.repeat(frame, FRAMES, axis=1)
  y = np.asarray(run((mix,), x)[0])
  segment = mix.segment or FRAMES
  for t in range(FRAMES):
    near = min(t % segment, segment - 1 - t % segment) < mix.window
    assert near != np.array_equal(y[:, t], x[:, t])


@property_of
@given(mix=mixes, seed=seeds)
def test_moved_channels(mix, seed):
  x = oracles.normal(2, FRAMES, 2, CHANNELS, seed=seed)
  y = np.asarray(run((mix,), x)[0])
  offsets = mixing_offsets(mix.window, mix.boundary_only)
  moved = (mix.heads or 1) * len(offsets) * mix.width(CHANNELS)
  # Random values differ in every frame: a channel that moved has changed.
  assert ((x != y).sum(axis=-1) == moved).all()
  assert moved <= 2 * CHANNELS / mix.shift_div


@property_of
@given(
  mix=mixes,
  seed=seeds,
  clip=st.integers(0, 1),
  frame=st.integers(0, FRAMES - 1),
)
def test_influence_stays_in_segment_window_and_token(mix, seed, clip, frame):
  x = oracles.normal(2, FRAMES, 2, CHANNELS, seed=seed)
  other = x.copy()
  other[clip, frame, 1] += 1
  changed = np.argwhere(
    np.asarray(run((mix,), x)[0] != run((mix,), other)[0]).any(axis=-1)
  )
  segment = mix.segment or FRAMES
  allowed = {
    (clip, t, 1)
    for t in range(FRAMES)
    if t // segment == frame // segment and abs(t - frame) <= mix.window
  }
  assert set(map(tuple, changed.tolist())) <= allowed


def swap_groups(x, mix):
  """Exchanges the channels that come from t + o with those from t - o."""
  g = mix.heads or 1
  x = np.array(x).reshape(*x.shape[:-1], g, -1)
  width = mix.width(CHANNELS)
  offsets = mixing_offsets(mix.window, mix.boundary_only)
  pairs = x[..., : len(offsets) * width]
  pairs = pairs.reshape(*x.shape[:-1], len(offsets) // 2, 2, width)
  moved = pairs[..., ::-1, :].reshape(*x.shape[:-1], -1)
  x[..., : moved.shape[-1]] = moved
  return x.reshape(*x.shape[:-2], -1)


@property_of
@given(mix=mixes, seed=seeds)
def test_reversed_time_swaps_the_groups(mix, seed):
  x = oracles.normal(2, FRAMES, 2, CHANNELS, seed=seed)

  def mirror(x):
    return swap_groups(x[:, ::-1], mix)

  np.testing.assert_array_equal(
    run((mix,), mirror(x))[0], mirror(run((mix,), x)[0])
  )


def test_gradient_is_the_transpose():
  mix = Mix(4, 2, segment=4)
  x, ct = oracles.normal(2, 1, 8, 1, 24)
  got = oracles.jit(lambda x, ct: jax.vjp(mix, x)[1](ct)[0])(x, ct)
  # Column by column: the derivative of a linear map is the map itself.
  basis = np.eye(x.size, dtype=np.float32).reshape(-1, *x.shape[1:])
  want = [(mix.oracle(e[None]) * ct).sum() for e in basis]
  np.testing.assert_allclose(got.ravel(), want, rtol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"window": -1}, "mixing window is -1 frames"),
    ({"shift_div": 1}, "shift_div is 1.*use 2"),
    ({"segment": 3}, "8 frames does not divide into segments of 3"),
    ({"segment": 0}, "8 frames does not divide into segments of 0"),
  ],
)
def test_errors(options, message):
  with pytest.raises(ValueError, match=message):
    mix_frames(jnp.zeros((1, 8, 2, 12)), **options)


def test_check_segment():
  assert check_segment(16, None) == 16
  assert check_segment(16, 8) == 8
  with pytest.raises(ValueError, match="set segment=None"):
    check_segment(8, 16)
