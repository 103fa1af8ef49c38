import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops.leap import (
  leap_distance,
  leap_pairs,
  legal_levels,
  paired_frames,
  unpair,
)

pairs_of = oracles.jit(leap_pairs, static_argnums=1)
frames_of = oracles.jit(unpair, static_argnums=1)

LEGAL = [(t, level) for t in range(1, 65) for level in legal_levels(t)]
SHORT = [(t, level) for t, level in LEGAL if t in (2, 4, 6, 8, 10, 12)]


def naive_pairs(frames, level):
  """Walks up in time and pairs what is free; None if a partner is missing."""
  leap = frames // 2**level
  used, pairs = set(), []
  for t in range(frames):
    if t in used:
      continue
    if leap < 1 or t + leap >= frames or t + leap in used:
      return None
    used |= {t, t + leap}
    pairs.append([t, t + leap])
  return pairs


def test_legal_levels_and_pairs_equal_the_walk():
  for frames in range(1, 65):
    for level in range(8):
      want = naive_pairs(frames, level)
      assert (level in legal_levels(frames)) == (want is not None)
      if want is not None:
        assert paired_frames(frames, level).tolist() == want


def test_pairs_by_hand():
  assert legal_levels(12) == (1, 2, 3)
  assert paired_frames(12, 2).tolist() == [
    [0, 3],
    [1, 4],
    [2, 5],
    [6, 9],
    [7, 10],
    [8, 11],
  ]
  assert leap_distance(32, 1) == 16
  assert leap_distance(6, 2) == 1


def test_stored_patterns(shared):
  text = (shared / "golden" / "laps" / "patterns.json").read_text()
  stored = json.loads(text)["leap"]
  checked = 0
  for name, entry in stored.items():
    frames, level = name.removeprefix("T").split("/")
    if level.startswith("level"):
      legal = int(level.removeprefix("level")) in legal_levels(int(frames))
      assert legal == entry["ok"], name
      checked += 1
  assert checked > 50


@pytest.mark.parametrize(("frames", "level"), SHORT)
def test_tokens_of_a_pair_lie_side_by_side(frames, level):
  x = oracles.normal(2, frames, 3, 5)
  y = pairs_of(x, level)
  want = np.zeros((2, frames // 2, 6, 5), np.float32)
  for p, (first, second) in enumerate(naive_pairs(frames, level) or []):
    for n in range(3):
      want[:, p, n] = x[:, first, n]
      want[:, p, 3 + n] = x[:, second, n]
  np.testing.assert_array_equal(y, want)
  np.testing.assert_array_equal(frames_of(y, level), x)


@settings(deadline=None, max_examples=50)
@given(case=st.sampled_from(LEGAL))
def test_pairing_is_a_permutation(case):
  frames, level = case
  pairs = paired_frames(frames, level)
  assert sorted(pairs.ravel()) == list(range(frames))
  assert (np.diff(pairs) == leap_distance(frames, level)).all()
  assert (np.diff(pairs[:, 0]) > 0).all()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_no_gather(level):
  x = jax.ShapeDtypeStruct((2, 8, 3, 5), jnp.float32)

  def there_and_back(x):
    return unpair(leap_pairs(x, level), level)

  used = {str(e.primitive) for e in jax.make_jaxpr(there_and_back)(x).eqns}
  assert used <= {"reshape", "transpose"}


@pytest.mark.parametrize(
  ("frames", "level", "message"),
  [
    (8, 4, "leap level 4 cannot pair 8 frames; the legal levels are 1, 2, 3"),
    (8, 0, "leap level 0 cannot pair 8 frames"),
    (8, -1, "leap level -1 cannot"),
    (10, 2, "leap level 2 cannot pair 10 frames; the legal levels are 1, 3"),
    (7, 1, "level 1 cannot pair 7 frames; .* none: use an even number"),
  ],
)
def test_illegal_levels(frames, level, message):
  with pytest.raises(ValueError, match=message):
    paired_frames(frames, level)
  with pytest.raises(ValueError, match=message):
    leap_pairs(jnp.zeros((1, frames, 2, 3)), level)


def test_unpair_checks_the_level():
  with pytest.raises(ValueError, match="level 3 cannot pair 4 frames"):
    unpair(jnp.zeros((1, 2, 4, 3)), 3)
