import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from vidjax.ops import corners, hats, interframe
from vidjax.ops.interframe import displacements, interframe_attention

B, T, H, W, C = 2, 3, 4, 5, 6


def inside(value, row, column):
  """A pixel of (h, w, c), zero outside."""
  h, w = value.shape[:2]
  if 0 <= row < h and 0 <= column < w:
    return value[row, column]
  return np.zeros(value.shape[-1])


def sample(value, r, c):
  """A bilinear sample of (h, w, c) and its derivatives to the right."""
  h, w = value.shape[:2]
  if not (-1 < r < h and -1 < c < w):
    return np.zeros((3, value.shape[-1]))
  r0, c0 = int(np.floor(r)), int(np.floor(c))
  a, b = r - r0, c - c0
  f00, f01 = inside(value, r0, c0), inside(value, r0, c0 + 1)
  f10, f11 = inside(value, r0 + 1, c0), inside(value, r0 + 1, c0 + 1)
  return np.stack(
    [
      (1 - a) * ((1 - b) * f00 + b * f01) + a * ((1 - b) * f10 + b * f11),
      (1 - b) * (f10 - f00) + b * (f11 - f01),
      (1 - a) * (f01 - f00) + a * (f11 - f10),
    ]
  )


def taps(shape, r, c):
  """Pixels and weights of a sample, for the gradient of the map."""
  h, w = shape[:2]
  if not (-1 < r < h and -1 < c < w):
    return
  r0, c0 = int(np.floor(r)), int(np.floor(c))
  for y in (r0, r0 + 1):
    for x in (c0, c0 + 1):
      if 0 <= y < h and 0 <= x < w:
        yield y, x, (1 - abs(y - r)) * (1 - abs(x - c))


def naive(q, k, v, offsets, ct, kernel, dilation):
  """The equations, sample by sample: Y, and the gradient of sum(Y ct)."""
  q, k, v, offsets, ct = (oracles.array(x) for x in (q, k, v, offsets, ct))
  y = np.zeros(v.shape)
  grads = [np.zeros(x.shape) for x in (q, k, v, offsets)]
  first = (dilation * (kernel - 1) + 1) // 2
  for i, t, row, column in np.ndindex(len(q), q.shape[1] - 1, *q.shape[2:4]):
    here = (i, t, row, column)
    query, key, value = q[here], k[i, t + 1], v[i, t + 1]
    for n in range(kernel**2):
      r = row - first + dilation * (n // kernel) + offsets[here][n, 0]
      c = column - first + dilation * (n % kernel) + offsets[here][n, 1]
      keys, values = sample(key, r, c), sample(value, r, c)
      score = query @ keys[0] / len(query)
      y[here] += score * values[0]
      d_score = ct[here] @ values[0] / len(query)
      grads[0][here] += d_score * keys[0]
      for axis in (0, 1):
        grads[3][here][n, axis] += d_score * (query @ keys[1 + axis])
        grads[3][here][n, axis] += score * (ct[here] @ values[1 + axis])
      for p, s, weight in taps(key.shape, r, c):
        grads[1][i, t + 1, p, s] += weight * d_score * query
        grads[2][i, t + 1, p, s] += weight * score * ct[here]
  return y, grads


def maps(seed, frames=T):
  return oracles.normal(B, frames, H, W, C, seed=seed)


def zero(n):
  return np.zeros((B, T - 1, H, W, n, 2), np.float32)


def fractional(n):
  return 1.5 * oracles.normal(B, T - 1, H, W, n, 2, seed=5)


def at_corners(n):
  """Every coordinate is an integer: the derivative is one-sided."""
  return np.round(fractional(n))


def at_border(n):
  """Coordinates on, and just beside, the first and last ones with a value."""
  rng = np.random.default_rng(3)
  rows = rng.choice([-1, 0, H - 1, H], (B, T - 1, H, W, n))
  columns = rng.choice([-1, 0, W - 1, W], (B, T - 1, H, W, n))
  aside = rng.choice([-(2.0**-8), 0, 2.0**-8], (2, B, T - 1, H, W, n))
  places = np.stack([rows + aside[0], columns + aside[1]], -1)
  own = np.stack(np.indices((H, W)), -1)[:, :, None]
  return (places - own - displacements(round(n**0.5))).astype(np.float32)


def far_away(n):
  return 40 * fractional(n)


def attend(q, k, v, offsets=None, **options):
  def call(q, k, v, offsets):
    return interframe_attention(q, k, v, offsets, **options)

  return oracles.jit(call)(q, k, v, offsets)


def run(q, k, v, offsets, ct, **options):
  """Result and gradients of the operation."""

  @oracles.jit
  def differentiate(q, k, v, offsets):
    def weighted(q, k, v, offsets):
      y = interframe_attention(q, k, v, offsets, **options)
      return (y * ct).sum(), y

    return jax.grad(weighted, (0, 1, 2, 3), has_aux=True)(q, k, v, offsets)

  gradients, y = differentiate(q, k, v, offsets)
  return np.asarray(y), gradients


@pytest.mark.parametrize(
  ("make", "kernel", "dilation"),
  [
    (zero, 3, 1),
    (fractional, 3, 1),
    (fractional, 1, 1),
    (fractional, 5, 1),
    (fractional, 3, 2),
    (fractional, 2, 1),
    (at_corners, 3, 1),
    (at_border, 3, 1),
    (far_away, 3, 1),
  ],
)
def test_offsets_equal_the_loop(make, kernel, dilation):
  q, k, v, ct = (maps(seed) for seed in range(4))
  offsets = make(kernel**2)
  y, gradients = run(q, k, v, offsets, ct, kernel=kernel, dilation=dilation)
  wanted, theirs = naive(q, k, v, offsets, ct, kernel, dilation)
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  for ours, each in zip(gradients, theirs, strict=True):
    np.testing.assert_allclose(ours, each, atol=3e-5)


@pytest.mark.parametrize(
  ("kernel", "dilation"), [(3, 1), (1, 1), (5, 1), (3, 2), (2, 1), (2, 3)]
)
def test_regular_grid_equals_the_loop(kernel, dilation):
  q, k, v, ct = (maps(seed) for seed in range(4))

  @oracles.jit
  def differentiate(q, k, v):
    def weighted(q, k, v):
      y = interframe_attention(q, k, v, kernel=kernel, dilation=dilation)
      return (y * ct).sum(), y

    return jax.grad(weighted, (0, 1, 2), has_aux=True)(q, k, v)

  gradients, y = differentiate(q, k, v)
  wanted, theirs = naive(q, k, v, zero(kernel**2), ct, kernel, dilation)
  np.testing.assert_allclose(y, wanted, atol=1e-5)
  for ours, each in zip(gradients, theirs[:3], strict=True):
    np.testing.assert_allclose(ours, each, atol=3e-5)


@pytest.mark.parametrize("deformed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_softmax_and_groups(deformed, groups):
  q, k, v = (maps(seed) for seed in range(3))
  offsets = fractional(9)
  given = offsets if deformed else None
  y = attend(q, k, v, given, groups=groups, score="softmax")
  offsets = offsets if deformed else zero(9)
  size = C // groups
  wanted = np.zeros((B, T, H, W, groups, C))
  for i, t, row, column in np.ndindex(B, T - 1, H, W):
    here = (i, t, row, column)
    places = (row, column) + displacements(3) + offsets[here]
    keys = np.array([sample(k[i, t + 1], *place)[0] for place in places])
    values = np.array([sample(v[i, t + 1], *place)[0] for place in places])
    for group in range(groups):
      own = slice(group * size, (group + 1) * size)
      weights = np.exp(keys[:, own] @ q[here][own] / np.sqrt(size))
      wanted[here][group] = weights @ values / weights.sum()
  np.testing.assert_allclose(y, wanted.reshape(B, T, H, W, -1), atol=1e-5)


def test_groups_have_scores_of_their_own():
  """Each is the operation on its channels alone, at 1 / C of all."""
  q, k, v = (maps(seed) for seed in range(3))
  y = attend(q, k, v, fractional(9), groups=3)
  for group in range(3):
    own = slice(2 * group, 2 * group + 2)
    only = np.zeros_like(q)
    only[..., own] = q[..., own]
    alone = attend(only, k, v, fractional(9))
    np.testing.assert_allclose(
      y[..., group * C : (group + 1) * C], alone, atol=1e-5
    )


@pytest.mark.parametrize("deformed", [False, True])
def test_only_the_next_frame_gives_and_the_last_receives_nothing(deformed):
  x = maps(0)
  offsets = fractional(9) if deformed else None
  y = np.asarray(attend(x, x, x, offsets))
  assert not y[:, -1].any()
  changed = x.copy()
  changed[:, 2] = 0
  z = np.asarray(attend(changed, changed, changed, offsets))
  np.testing.assert_array_equal(z[:, 0], y[:, 0])
  assert not z[:, 1].any()
  assert y[:, 1].any()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_single_frame_receives_nothing(groups):
  x = maps(0, frames=1)
  y = attend(x, x, x, groups=groups)
  assert y.shape == (B, 1, H, W, groups * C)
  assert not np.asarray(y).any()


@settings(deadline=None, max_examples=10)
@given(row=st.integers(-5, 5), column=st.integers(-6, 6))
def test_whole_offsets_move_the_map(row, column):
  q, k = maps(0), maps(1)
  offsets = np.broadcast_to(
    np.array([row, column], np.float32), (B, T - 1, H, W, 1, 2)
  )
  moved = np.zeros_like(k)
  for i, j in np.ndindex(H, W):
    moved[:, :, i, j] = [
      [inside(frame, i + row, j + column) for frame in clip] for clip in k
    ]
  np.testing.assert_allclose(
    attend(q, k, k, offsets, kernel=1),
    attend(q, moved, moved, kernel=1),
    atol=1e-5,
  )


@pytest.mark.parametrize("size", [(20, 3), (9, 17), (16, 8)])
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (4, 2), (9, 2)])
def test_tiles_do_not_show(size, kernel, dilation):
  """Both forms agree on maps of several tiles, some of them cut."""
  x = oracles.normal(1, 2, *size, 4)
  offsets = np.zeros((1, 1, *size, kernel**2, 2), np.float32)
  options = {"kernel": kernel, "dilation": dilation}
  np.testing.assert_allclose(
    attend(x, x, x, **options), attend(x, x, x, offsets, **options), atol=1e-4
  )


def test_rows_at_a_time_do_not_show(monkeypatch):
  q, k, v, ct = (maps(seed) for seed in range(4))
  offsets = fractional(9)
  y, gradients = run(q, k, v, offsets, ct)
  monkeypatch.setattr(interframe, "MOST_NUMBERS", 2 * W * 9 * C)
  interframe.interframe_attention.clear_cache()
  again, same = run(q, k, v, offsets, ct)
  interframe.interframe_attention.clear_cache()
  np.testing.assert_allclose(again, y, atol=1e-6)
  for one, other in zip(gradients, same, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_displacements():
  assert displacements(1).tolist() == [[0, 0]]
  assert displacements(3)[:4].tolist() == [[-1, -1], [-1, 0], [-1, 1], [0, -1]]
  for kernel, dilation, first in [(5, 1, -2), (3, 2, -2), (9, 1, -4)]:
    assert displacements(kernel, dilation)[0].tolist() == [first, first]
    assert displacements(kernel, dilation)[-1].tolist() == [-first, -first]


def test_hat():
  places = np.array([0, 0.25, 2, -0.5, -1, 3, 3.5, 4, -7, 1e9], np.float32)
  wanted = np.maximum(1 - np.abs(np.arange(4) - places[:, None]), 0)
  np.testing.assert_array_equal(hats.hat(jnp.asarray(places), 4), wanted)
  slopes = jax.jacobian(lambda x: hats.hat(x, 4))(jnp.asarray(places))
  slopes = np.einsum("imi->im", slopes)
  expected = np.zeros((len(places), 4))
  expected[0, :2] = expected[1, :2] = expected[2, 2:] = [-1, 1]
  expected[3, 0] = 1  # -0.5 fades in; at -1 it has left
  expected[5, 3] = expected[6, 3] = -1
  np.testing.assert_array_equal(slopes, expected)


def sampling_case():
  """Numbers, weights and places in, on and outside of every border."""
  rng = np.random.default_rng(0)
  size = (5, 7)
  special = np.array([-1, -0.5, 0, 2, 4, 4.5, 5, 6.25, 7, -1e30, np.inf])
  rows, columns = rng.choice(special, (2, 2, 6, 9))
  rows[0], columns[1] = rng.uniform(-2, 8, (2, 6, 9))
  numbers = rng.normal(size=(2, 6, 3, *size))
  weights = rng.normal(size=(2, 6, 3, 9))
  return [jnp.asarray(x, "f4") for x in (numbers, weights, rows, columns)]


def test_hats_and_corners_agree():
  """The CPU's form and the other platforms', with all of their gradients."""
  numbers, weights, rows, columns = sampling_case()
  for name, first, ct in [
    ("sample", numbers, weights),
    ("spread", weights, numbers),
  ]:
    size = {"size": (5, 7)} if name == "spread" else {}
    results = []
    for form in (hats, corners):
      apply = functools.partial(getattr(form, name), **size)
      y, pull = jax.vjp(apply, first, rows, columns)
      results.append((y, *pull(ct)))
    for one, other in zip(*results, strict=True):
      np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("form", [hats, corners])
def test_corners_equal_the_loop(form):
  numbers, weights, rows, columns = sampling_case()
  want = np.zeros(weights.shape)
  spread = np.zeros(numbers.shape)
  for b, p, n in np.ndindex(rows.shape):
    for y, x in np.ndindex(5, 7):
      share = max(0, 1 - abs(y - rows[b, p, n]))
      share *= max(0, 1 - abs(x - columns[b, p, n]))
      want[b, p, :, n] += share * numbers[b, p, :, y, x]
      spread[b, p, :, y, x] += share * weights[b, p, :, n]
  got = form.sample(numbers, rows, columns)
  np.testing.assert_allclose(got, want, atol=2e-6)
  got = form.spread(weights, rows, columns, (5, 7))
  np.testing.assert_allclose(got, spread, atol=2e-6)


def test_samples_of_maps():
  _, _, rows, columns = sampling_case()
  value = maps(3)[:, 0]
  got = corners.sample_maps(jnp.asarray(value), rows, columns)
  for b, p, n in np.ndindex(rows.shape):
    want = sample(value[b], float(rows[b, p, n]), float(columns[b, p, n]))[0]
    np.testing.assert_allclose(got[b, p, n], want, atol=2e-6)


@pytest.mark.parametrize("score", interframe.SCORES)
@pytest.mark.parametrize("groups", [1, 2])
def test_both_forms_of_the_forward_pass_agree(monkeypatch, score, groups):
  """Samples (on a CPU) and products (elsewhere, and in the gradient)."""
  q, k, v = (jnp.asarray(maps(seed)) for seed in range(3))
  options = {"score": score, "groups": groups}
  by_samples = attend(q, k, v, fractional(9), **options)
  chosen = interframe.lax.platform_dependent
  monkeypatch.setattr(
    interframe.lax,
    "platform_dependent",
    lambda *x, cpu, default: (
      default(*x) if len(x) == 4 else chosen(*x, cpu=cpu, default=default)
    ),
  )
  interframe.interframe_attention.clear_cache()
  by_products = attend(q, k, v, fractional(9), **options)
  interframe.interframe_attention.clear_cache()
  np.testing.assert_allclose(by_samples, by_products, atol=1e-5)
  assert not np.array_equal(by_samples, by_products)


@pytest.mark.parametrize("form", [hats, corners])
def test_nan_places_are_visible(form):
  numbers, weights, rows, columns = sampling_case()
  rows = rows.at[0, 3, 2].set(jnp.nan)
  columns = jnp.zeros_like(columns)
  sampled = np.asarray(form.sample(numbers, rows, columns))
  assert np.isnan(sampled[0, 3, :, 2]).all()
  assert np.isnan(sampled).sum() == 3
  spread = np.asarray(form.spread(weights, rows, columns, (5, 7)))
  assert np.isnan(spread[0, 3]).any()
  assert np.isfinite(np.delete(spread[0], 3, axis=0)).all()


def test_huge_offsets_give_nothing_and_nan_shows():
  x = jnp.asarray(maps(0))
  offsets = jnp.full((B, T - 1, H, W, 9, 2), 1e30)
  assert not np.asarray(attend(x, x, x, offsets)).any()
  y = np.asarray(attend(x, x, x, offsets.at[0, 0, 1, 2, 4].set(jnp.nan)))
  assert np.isnan(y[0, 0, 1, 2]).all()
  assert np.isfinite(y[0, 1:]).all()


@pytest.mark.parametrize("deformed", [False, True])
def test_samples_are_never_held(deformed):
  """Temporary memory stays far below that of K x K samples."""
  kernel, (t, h, w, c) = 7, (3, 12, 12, 256)
  x = jnp.zeros((1, t, h, w, c))
  offsets = jnp.zeros((1, t - 1, h, w, kernel**2, 2)) if deformed else None

  def loss(x, offsets):
    y = interframe_attention(x, x, x, offsets, kernel=kernel)
    return (y**2).sum()

  compiled = jax.jit(jax.grad(loss)).lower(x, offsets).compile()
  used = compiled.memory_analysis().temp_size_in_bytes
  samples = kernel**2 * (t - 1) * h * w * c * x.dtype.itemsize
  assert used < samples / 2, (used, samples)


def test_bfloat16_keeps_float32_scores():
  x = jnp.asarray(maps(0), jnp.bfloat16)
  for offsets in (None, fractional(9)):
    y = attend(x, x, x, offsets)
    assert y.dtype == jnp.bfloat16
    exact = attend(*[x.astype(jnp.float32)] * 3, offsets)
    np.testing.assert_allclose(
      y.astype(jnp.float32), exact, atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"score": "dot"}, "score is 'dot'; use one of 'scaled', 'softmax'"),
    ({"kernel": 0}, "kernel is 0; use 1 or more"),
    ({"dilation": 0}, "dilation is 0; use 1 or more"),
    ({"groups": 4}, "6 channels do not divide into 4 groups"),
    ({"groups": 0}, "6 channels do not divide into 0 groups"),
  ],
)
def test_errors(options, message):
  x = maps(0)
  with pytest.raises(ValueError, match=message):
    attend(x, x, x, **options)
