import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidjax.data.sampling import (
  SAMPLERS,
  dense_eval,
  dense_train,
  segments_eval,
  segments_train,
  snippets_eval,
  snippets_train,
  strided_eval,
  strided_train,
)

lengths = st.integers(1, 700)
frames = st.integers(1, 40)
strides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def naive_window(start, n, t, stride):
  """Index by index, as X-ViT (Bulat et al. 2021) samples a clip."""
  span = t * stride
  step = (span - 1) / (t - 1) if t > 1 else 0
  return [int(min(max(start + i * step, 0), n - 1)) for i in range(t)]


def naive_segments(n, t):
  seg = (n - 1) / t
  return [(round(seg * i), round(seg * (i + 1))) for i in range(t)]


def test_dense_eval_golden(shared):
  table = np.load(shared / "golden/xvit/misc.npz")["kinetics_test_index"]
  assert len(table) == 357
  for n, t, stride, clips, clip, *want in table.tolist():
    got = dense_eval(n, frames=t, stride=stride, clip=clip, clips=clips)
    assert got.tolist() == want[:t]


def test_segments_eval_golden(shared):
  table = np.load(shared / "golden/xvit/misc.npz")["ssv2_index"]
  assert len(table) == 132
  for n, t, kind, *want in table.tolist():
    clip = 0 if kind == 3 else kind  # kind 3 is validation: the middle
    got = segments_eval(n, frames=t, stride=1, clip=clip, clips=3)
    assert got.tolist() == want[:t]


@given(lengths, frames, strides, seeds)
def test_dense_train(n, t, stride, seed):
  rng = np.random.default_rng(seed)
  got = dense_train(rng, n, frames=t, stride=stride)
  slack = max(n - t * stride, 0)
  start = np.random.default_rng(seed).uniform(0, slack)
  want = naive_window(start, n, t, stride)
  assert np.abs(got - want).max() <= 1  # a last bit may cross an integer
  assert np.mean(got == want) > 0.7
  assert 0 <= got.min() <= got.max() < n
  assert (np.diff(got) >= 0).all()


def test_dense_train_covers_all_starts():
  rng = np.random.default_rng(0)
  starts = [dense_train(rng, 40, frames=4, stride=8)[0] for _ in range(400)]
  # 32 of 40 frames: the start is real-valued in [0, 8], then truncated.
  assert set(starts) == set(range(8))
  assert max(np.bincount(starts)) < 90


def test_dense_short_video():
  rng = np.random.default_rng(0)
  assert dense_train(rng, 5, frames=4, stride=3).tolist() == [0, 3, 4, 4]
  assert dense_train(rng, 1, frames=3, stride=16).tolist() == [0, 0, 0]


def test_dense_eval_starts_do_not_reach_the_end():
  starts = [
    dense_eval(130, frames=5, stride=6, clip=v, clips=4)[0] for v in range(4)
  ]
  assert starts == [0, 25, 50, 75]


def naive_loop(start, n, t, stride):
  """Index by index, as LAPS (Zhang et al. 2022) samples a clip."""
  span = t * stride
  step = (span - 1) / (t - 1) if t > 1 else 0
  return [int(start + i * step) % n for i in range(t)]


def loop_distance(got, want, n):
  apart = np.abs(got - want)
  return np.minimum(apart, n - apart)


@given(lengths, frames, strides, seeds)
def test_dense_loop_train(n, t, stride, seed):
  sample = SAMPLERS["dense_loop"].train
  got = sample(np.random.default_rng(seed), n, frames=t, stride=stride)
  start = np.random.default_rng(seed).uniform(0, max(n - t * stride, 0))
  want = naive_loop(start, n, t, stride)
  # A last bit may cross an integer.
  assert loop_distance(got, want, n).max() <= 1
  assert np.mean(got == want) > 0.7
  assert 0 <= got.min() <= got.max() < n
  if n >= t * stride:  # the loop is not needed
    clamped = dense_train(
      np.random.default_rng(seed), n, frames=t, stride=stride
    )
    np.testing.assert_array_equal(got, clamped)


@given(lengths, frames, strides, st.integers(1, 12))
def test_dense_loop_eval(n, t, stride, clips):
  for clip in range(clips):
    got = SAMPLERS["dense_loop"].eval(
      n, frames=t, stride=stride, clip=clip, clips=clips
    )
    want = naive_loop(max(n - t * stride, 0) * clip / clips, n, t, stride)
    assert loop_distance(got, want, n).max() <= 1
    assert np.mean(got == want) > 0.7


@pytest.mark.parametrize(
  ("t", "stride", "want"),
  [
    (8, 8, [0, 9, 18, 27, 36, 45, 54, 63]),
    (8, 32, [0, 36, 72, 109, 145, 182, 218, 255]),
    (
      16,
      8,
      [0, 8, 16, 25, 33, 42, 50, 59, 67, 76, 84, 93, 101, 110, 118, 127],
    ),
  ],
)
def test_dense_loop_of_the_published_recipes(t, stride, want):
  evaluate = SAMPLERS["dense_loop"].eval
  got = evaluate(300, frames=t, stride=stride, clip=0, clips=10)
  assert got.tolist() == want
  short = evaluate(50, frames=t, stride=stride, clip=9, clips=10)
  assert short.tolist() == [index % 50 for index in want]


def test_dense_loop_eval_starts():
  starts = [
    SAMPLERS["dense_loop"].eval(300, frames=8, stride=8, clip=k, clips=10)[0]
    for k in range(10)
  ]
  assert starts == [0, 23, 47, 70, 94, 118, 141, 165, 188, 212]  # of 236


@given(lengths, frames, strides, seeds)
def test_strided_train(n, t, stride, seed):
  got = strided_train(np.random.default_rng(seed), n, frames=t, stride=stride)
  start = got[0]
  assert got.tolist() == [(start + i * stride) % n for i in range(t)]
  span = t * stride
  assert 0 <= start <= (n - span if n >= span else 0)


def test_strided_train_is_uniform_over_all_starts():
  rng = np.random.default_rng(0)
  draws = [strided_train(rng, 71, frames=32, stride=2) for _ in range(1600)]
  counts = np.bincount([clip[0] for clip in draws])
  assert len(counts) == 8  # 0 to 7, both ends included
  assert 140 < counts.min() <= counts.max() < 260
  assert {clip[-1] - clip[0] for clip in draws} == {62}


def test_strided_wraps_around():
  rng = np.random.default_rng(0)
  for sample in (
    strided_train(rng, 5, frames=4, stride=2),
    strided_eval(5, frames=4, stride=2, clip=0, clips=1),
  ):
    assert sample.tolist() == [0, 2, 4, 1]
  assert strided_train(rng, 1, frames=3, stride=2).tolist() == [0, 0, 0]


@given(lengths, frames, strides, st.integers(1, 12))
def test_strided_eval(n, t, stride, clips):
  """Clip by clip, as MMAction places test clips."""
  span = t * stride
  for clip in range(clips):
    start = 0
    if n >= span:
      part = (n - span + 1) / clips
      start = int(clip * part + part / 2)
    got = strided_eval(n, frames=t, stride=stride, clip=clip, clips=clips)
    assert got.tolist() == [(start + i * stride) % n for i in range(t)]


def test_strided_eval_starts():
  # 300 frames, 32 x 2: 237 starts in four parts of 59.25, and their middles.
  starts = [
    strided_eval(300, frames=32, stride=2, clip=k, clips=4)[0] for k in range(4)
  ]
  assert starts == [29, 88, 148, 207]
  (only,) = strided_eval(10, frames=1, stride=10, clip=0, clips=1)
  assert only == 0  # one start: the part is a single frame


@given(lengths, frames, seeds)
def test_segments_train(n, t, seed):
  got = segments_train(np.random.default_rng(seed), n, frames=t, stride=1)
  for index, (first, last) in zip(got, naive_segments(n, t), strict=True):
    assert first <= index <= last
  assert 0 <= got.min() <= got.max() < n


def test_segments_train_includes_both_ends():
  rng = np.random.default_rng(0)
  draws = np.array(
    [segments_train(rng, 11, frames=4, stride=1) for _ in range(300)]
  )
  # Halves round to even: 2.5 to 2, 7.5 to 8.
  for column, (first, last) in enumerate([(0, 2), (2, 5), (5, 8), (8, 10)]):
    assert set(draws[:, column]) == set(range(first, last + 1))


@given(lengths, frames)
def test_segments_eval(n, t):
  ends = naive_segments(n, t)
  views = [
    segments_eval(n, frames=t, stride=1, clip=v, clips=3).tolist()
    for v in range(3)
  ]
  assert views[0] == [(a + b) // 2 for a, b in ends]
  assert views[1] == [a for a, _ in ends]
  assert views[2] == [b for _, b in ends]


def test_segments_has_three_views():
  with pytest.raises(ValueError, match=r"3 clips per video.*not 4"):
    segments_eval(10, frames=4, stride=1, clip=0, clips=4)


def naive_snippets(n, t, stride, segments):
  """Ranges of the first frames, as SIFA (Long et al. 2022) samples snippets.

  A video that is too short, which the official code refuses, starts at 0.
  """
  length = t // segments * stride
  part = n // segments
  if part >= length:
    return [(i * part, i * part + part - length) for i in range(segments)]
  free = float(max(n - length, 0)) / float(segments)
  return [(int(i * free), int(i * free) + int(free)) for i in range(segments)]


def snippets(starts, n, t, stride, segments):
  return [
    (start + i * stride) % n for start in starts for i in range(t // segments)
  ]


@given(lengths, st.integers(1, 8), strides, st.integers(1, 6), seeds)
def test_snippets_train(n, each, stride, segments, seed):
  t = each * segments
  rng = np.random.default_rng(seed)
  got = snippets_train(rng, n, frames=t, stride=stride, segments=segments)
  starts = got[::each]
  for start, (first, last) in zip(
    starts, naive_snippets(n, t, stride, segments), strict=True
  ):
    assert first <= start <= last
  assert got.tolist() == snippets(starts, n, t, stride, segments)
  if n >= each * stride:  # no snippet wraps around
    assert starts.max() + (each - 1) * stride < n


@given(
  lengths, st.integers(1, 8), strides, st.integers(1, 6), st.integers(1, 12)
)
def test_snippets_eval(n, each, stride, segments, clips):
  t = each * segments
  length, part = each * stride, n // segments
  if part >= length:
    room, first = part - length, [i * part for i in range(segments)]
  else:
    room = float(max(n - length, 0)) / segments
    first = [int(i * room) for i in range(segments)]
  for clip in range(clips):
    got = snippets_eval(
      n, frames=t, stride=stride, clip=clip, clips=clips, segments=segments
    )
    starts = [start + int(room * clip / clips) for start in first]
    assert got.tolist() == snippets(starts, n, t, stride, segments)


def test_one_snippet_is_neighbouring_frames_from_anywhere():
  rng = np.random.default_rng(0)
  draws = [snippets_train(rng, 23, frames=16, stride=1) for _ in range(1600)]
  counts = np.bincount([clip[0] for clip in draws])
  assert len(counts) == 8  # 0 to 7, both ends included
  assert 140 < counts.min() <= counts.max() < 260
  assert all((np.diff(clip) == 1).all() for clip in draws)


def test_snippets_eval_starts():
  starts = [
    snippets_eval(300, frames=16, stride=1, clip=k, clips=10)[0]
    for k in range(10)
  ]
  assert starts == [0, 28, 56, 85, 113, 142, 170, 198, 227, 255]  # of 284
  # Four parts of 11 frames; then of 5, which are shorter than a snippet of 6.
  parts = {"frames": 12, "stride": 2, "segments": 4, "clip": 1, "clips": 2}
  assert snippets_eval(44, **parts)[::3].tolist() == [2, 13, 24, 35]
  # 14 free frames: steps of 3.5.
  assert snippets_eval(20, **parts)[::3].tolist() == [1, 4, 8, 11]


def test_snippets_of_one_frame_cover_the_video():
  rng = np.random.default_rng(0)
  draws = np.array(
    [
      snippets_train(rng, 10, frames=4, stride=1, segments=4)
      for _ in range(200)
    ]
  )
  for i, column in enumerate(draws.T):
    assert set(column) == {2 * i, 2 * i + 1}


def test_snippets_of_a_short_video_wrap_around():
  rng = np.random.default_rng(0)
  got = snippets_train(rng, 5, frames=8, stride=2, segments=2)
  assert got.tolist() == [0, 2, 4, 1] * 2
  got = snippets_eval(3, frames=4, stride=1, clip=1, clips=2)
  assert got.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("segments", [0, 3])
def test_segments_that_do_not_divide_the_frames(segments):
  message = f"data.segments is {segments}, which does not divide the 8 frames"
  with pytest.raises(ValueError, match=message):
    snippets_eval(90, frames=8, stride=1, clip=0, clips=1, segments=segments)


def test_draws_are_those_of_earlier_versions():
  draws = [
    SAMPLERS[name]
    .train(np.random.default_rng(1), 100, frames=5, stride=8)
    .tolist()
    for name in ("dense", "dense_loop", "segments")
  ]
  assert draws == [
    [30, 40, 50, 59, 69],
    [30, 40, 50, 59, 69],
    [9, 30, 55, 78, 79],
  ]


def test_table():
  assert {name: sampler.options for name, sampler in SAMPLERS.items()} == {
    "dense": (),
    "dense_loop": (),
    "strided": (),
    "segments": (),
    "snippets": ("segments",),
  }
  for sampler in SAMPLERS.values():
    same = [
      sampler.train(np.random.default_rng(3), 90, frames=6, stride=4).tolist()
      for _ in range(2)
    ]
    assert same[0] == same[1]
    assert len(sampler.eval(90, frames=6, stride=4, clip=1, clips=2)) == 6
