import os
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.train.mixup import mixup

ALPHA = 0.4
SHAPE = (2, 3, 3, 2)  # t h w c of a clip


def clips(b):
  """Clips whose pixels are all the number of the clip."""
  return jnp.broadcast_to(
    jnp.arange(b, dtype=jnp.float32)[:, None, None, None, None], (b, *SHAPE)
  )


mix = jax.jit(mixup, static_argnames=("alpha", "group"))


@pytest.fixture(scope="module")
def draws():
  """Weight of each group (n) and partner of each clip in its group (n 4)."""
  b = 40_000
  arguments = jax.random.key(0), jnp.zeros((b, 1, 1, 1, 1)), jnp.arange(b)
  _, (_, second, lam) = mix(*arguments, alpha=ALPHA, group=4)
  lam, second = np.asarray(lam, np.float64), np.asarray(second)
  return lam[::4], second.reshape(-1, 4) % 4


@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(seed=st.integers(0, 2**31 - 1))
def test_each_clip_is_mixed_with_one_of_its_group(seed):
  b, group = 6, 3
  rng = np.random.default_rng(seed)
  video = rng.normal(size=(b, *SHAPE)).astype(np.float32)
  mixed, (first, second, lam) = mix(
    jax.random.key(seed),
    jnp.asarray(video),
    jnp.arange(b),
    alpha=ALPHA,
    group=group,
  )
  np.testing.assert_array_equal(first, np.arange(b))
  for start in range(0, b, group):
    members = range(start, start + group)
    assert sorted(np.asarray(second)[members]) == list(members)
    assert len(set(np.asarray(lam)[members])) == 1
  for i in range(b):
    expected = lam[i] * video[i] + (1 - lam[i]) * video[second[i]]
    np.testing.assert_allclose(mixed[i], expected, atol=1e-6)


def test_weights_follow_the_beta_distribution(draws):
  lam, _ = draws
  assert ((lam >= 0) & (lam <= 1)).all()
  assert lam.mean() == pytest.approx(0.5, abs=0.015)
  assert lam.var() == pytest.approx(1 / (4 * (2 * ALPHA + 1)), rel=0.03)
  quarters = np.histogram(lam, 4, (0, 1))[0] / len(lam)
  # The regularised incomplete beta function at 1/4 is 0.3563.
  expected = [0.3563, 0.1437, 0.1437, 0.3563]
  np.testing.assert_allclose(quarters, expected, atol=0.02)


def test_every_partner_is_equally_likely(draws):
  _, partner = draws
  for i in range(4):
    shares = np.bincount(partner[:, i], minlength=4) / len(partner)
    np.testing.assert_allclose(shares, 1 / 4, atol=0.02)


def test_groups_draw_independently(draws):
  lam, partner = draws
  assert len(set(lam)) > 0.99 * len(lam)
  assert len({tuple(row) for row in partner}) == 24
  assert abs(np.corrcoef(lam[:-1], lam[1:])[0, 1]) < 0.04


def test_dtypes_are_kept():
  mixed, (first, second, lam) = jax.eval_shape(
    lambda video: mixup(
      jax.random.key(0), video, jnp.arange(4), alpha=ALPHA, group=2
    ),
    jnp.zeros((4, *SHAPE), jnp.bfloat16),
  )
  assert mixed.dtype == jnp.bfloat16
  assert first.dtype == second.dtype == jnp.int32
  assert lam.dtype == jnp.float32


@pytest.mark.parametrize(
  ("alpha", "group", "message"),
  [
    (0.4, 16, "mixup_group=16 does not divide the 8 clips"),
    (0.4, 3, "mixup_group=3 does not divide the 8 clips"),
    (0.4, 0, "mixup_group=0 does not divide the 8 clips"),
    (0, 8, "mixup_alpha is 0; use a positive number"),
  ],
)
def test_what_does_not_fit_is_named(alpha, group, message):
  with pytest.raises(ValueError, match=message):
    mixup(
      jax.random.key(0),
      jnp.zeros((8, *SHAPE)),
      jnp.arange(8),
      alpha=alpha,
      group=group,
    )


ON_FOUR_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from vidjax.train.mixup import mixup

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))
video = np.random.default_rng(0).normal(size=(16, 2, 8, 8, 3)).astype("f")
arguments = jax.random.key(0), jnp.asarray(video), jnp.arange(16)
def mix(key, video, labels):
  return mixup(key, video, labels, alpha=0.4, group=4)
whole = jax.jit(mix, in_shardings=(None, rows, rows), out_shardings=rows)
mixed, (_, second, lam) = jax.tree.map(np.asarray, whole(*arguments))
share = lam[:, None, None, None, None]
np.testing.assert_allclose(
  mixed, share * video + (1 - share) * video[second], atol=1e-6
)
print(whole.lower(*arguments).compile().as_text())
"""


def test_groups_on_one_device_are_mixed_without_communication():
  environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
  text = subprocess.run(
    [sys.executable, "-c", ON_FOUR_DEVICES],
    env=os.environ | environment,
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
  ).stdout
  moved = re.findall(r"= (\S+) (?:all-|collective-|reduce-scatter)", text)
  assert "HloModule" in text
  # Nothing of the size of a clip travels; draws of a few numbers may.
  assert all(len(shape.split(",")) <= 2 for shape in moved), moved


def test_inputs_may_be_mixed_ahead_of_what_makes_clips_of_them():
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (8, *SHAPE)).astype(np.uint8)
  inputs = {"video": jnp.asarray(pixels), "gain": jnp.arange(8.0)}

  def prepare(x):
    return x["video"] / 255 * x["gain"][:, None, None, None, None]

  arguments = (jax.random.key(1), jnp.arange(8))
  options = {"alpha": ALPHA, "group": 4}
  key, labels = arguments
  mixed, targets = mixup(key, inputs, labels, **options, prepare=prepare)
  wanted, same = mixup(key, prepare(inputs), labels, **options)
  np.testing.assert_array_equal(mixed, wanted)
  for ours, theirs in zip(targets, same, strict=True):
    np.testing.assert_array_equal(ours, theirs)
