import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vidjax.train.metrics import ClassificationSums, fuse_views

K = 7


def sums(logits, labels, mask=None):
  mask = np.ones(len(labels)) if mask is None else mask
  return update(
    ClassificationSums.empty(np.shape(logits)[-1]),
    jnp.asarray(logits, jnp.float32),
    jnp.asarray(labels, jnp.int32),
    jnp.asarray(mask, jnp.float32),
  )


@jax.jit
def update(state, logits, labels, mask):
  return state.update(logits, labels, mask)


def count_one_by_one(logits, labels, mask):
  """The same numbers, from a full ranking of each row."""
  k = logits.shape[1]
  top1 = top5 = 0
  confusion = np.zeros((k, k), int)
  count = np.zeros(k, int)
  for scores, label, real in zip(logits, labels, mask, strict=True):
    if not real:
      continue
    count[label] += 1
    if any(math.isnan(score) for score in scores):
      continue
    ranking = sorted(range(k), key=lambda c: (-scores[c], c))
    confusion[label, ranking[0]] += 1
    top1 += ranking[0] == label
    top5 += label in ranking[:5]
  return top1, top5, count, confusion


B = 12  # one shape, so that hypothesis compiles once

# Few values, so that ties, infinities and NaN meet often.
batches = st.tuples(
  hnp.arrays(
    np.float32,
    (B, K),
    elements=st.sampled_from([-np.inf, -1.5, 0, 0.25, 3, np.inf, np.nan]),
  ),
  hnp.arrays(np.int32, B, elements=st.integers(0, K - 1)),
  hnp.arrays(np.float32, B, elements=st.sampled_from([0, 1, 1])),
)


def assert_equal(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


@hypothesis.settings(deadline=None)
@hypothesis.given(batch=batches)
def test_sums_equal_a_full_ranking(batch):
  top1, top5, count, confusion = count_one_by_one(*batch)
  assert_equal(
    sums(*batch),
    ClassificationSums(
      top1=jnp.asarray(top1),
      top5=jnp.asarray(top5),
      count=jnp.asarray(count),
      confusion=jnp.asarray(confusion),
    ),
  )


@hypothesis.settings(deadline=None)
@hypothesis.given(
  batch=batches, owner=hnp.arrays(np.int8, B, elements=st.integers(0, 3))
)
def test_any_partition_gives_the_same(batch, owner):
  logits, labels, mask = batch
  whole = sums(*batch)
  running = merged = ClassificationSums.empty(K)
  for part in range(4):
    rows = logits, labels, mask * (owner == part)
    running = update(running, *map(jnp.asarray, rows))
    merged = sums(*rows).merge(merged)
  assert_equal(running, whole)
  assert_equal(merged, whole)


def test_any_batch_size_gives_the_same():
  rng = np.random.default_rng(0)
  logits, labels = rng.normal(size=(B, K)), rng.integers(K, size=B)
  whole = sums(logits, labels)
  for size in (1, 5, 7):
    running = ClassificationSums.empty(K)
    for start in range(0, B, size):
      rows = slice(start, start + size)
      running = running.merge(sums(logits[rows], labels[rows]))
    assert_equal(running, whole)
  assert whole.compute()["count"] == B


def test_compute_of_a_case_done_by_hand():
  logits = [
    [9, 1, 2],  # class 0, right
    [9, 1, 2],  # class 0, right
    [1, 9, 2],  # class 0, taken for 1
    [1, 2, 9],  # class 2, right
    [9, 9, 9],  # padding
  ]
  result = sums(logits, [0, 0, 0, 2, 1], [1, 1, 1, 1, 0]).compute()
  assert result == {
    "top1": 0.75,
    "top5": 1.0,  # there are only three classes
    "mean_class_accuracy": pytest.approx((2 / 3 + 1) / 2),
    "per_class": [pytest.approx(2 / 3), None, 1.0],
    "confusion": [[2, 1, 0], [0, 0, 0], [0, 0, 1]],
    "count": 4,
  }
  json.dumps(result, allow_nan=False)


def test_top5_is_among_the_first_five():
  logits = np.tile(np.arange(K, 0, -1.0), (K, 1))
  result = sums(logits, np.arange(K)).compute()
  assert result["top1"] == pytest.approx(1 / K)
  assert result["top5"] == pytest.approx(5 / K)


def test_ties_go_to_the_lowest_class():
  result = sums(np.zeros((K, K)), np.arange(K)).compute()
  assert result["top1"] == pytest.approx(1 / K)
  assert result["top5"] == pytest.approx(5 / K)
  assert [row[0] for row in result["confusion"]] == [1] * K


def test_nan_is_wrong_and_stays_in_the_count():
  result = sums([[np.nan, 0], [0, 1]], [0, 1]).compute()
  assert result["top1"] == result["top5"] == 0.5
  assert result["per_class"] == [0.0, 1.0]
  assert result["confusion"] == [[0, 0], [0, 1]]
  assert result["count"] == 2


def test_masked_rows_count_nothing_whatever_they_hold():
  poison = [[np.nan, np.inf], [-np.inf, 0]]
  assert_equal(sums(poison, [-1, 99], [0, 0]), ClassificationSums.empty(2))


def test_nothing_has_no_accuracy():
  result = ClassificationSums.empty(2).compute()
  assert math.isnan(result["top1"])
  assert math.isnan(result["mean_class_accuracy"])
  assert result["per_class"] == [None, None]


def test_low_precision_logits_and_boolean_masks_are_accepted():
  state = ClassificationSums.empty(3).update(
    jnp.asarray([[0.0, 1, 2], [2, 1, 0]], jnp.bfloat16),
    jnp.asarray([2, 1]),
    jnp.asarray([True, True]),
  )
  assert state.compute()["top1"] == 0.5


def test_a_wrong_number_of_classes_is_named():
  with pytest.raises(ValueError, match=r"4 scores.*set model.num_classes to 3"):
    ClassificationSums.empty(3).update(
      jnp.zeros((1, 4)), jnp.zeros(1, int), jnp.ones(1)
    )


def test_sums_may_be_donated_and_shape_evaluated():
  step = jax.jit(ClassificationSums.update, donate_argnums=0)
  arguments = (jnp.eye(3), jnp.arange(3), jnp.ones(3))
  shapes = jax.eval_shape(step, ClassificationSums.empty(3), *arguments)
  assert shapes.confusion.shape == (3, 3)
  state = step(ClassificationSums.empty(3), *arguments)
  assert int(step(state, *arguments).top1) == 6


def views():
  return np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32) * 4


def test_fusion_of_logits_is_their_sum():
  logits = views()
  expected = [[sum(v[c] for v in video) for c in range(5)] for video in logits]
  np.testing.assert_allclose(
    fuse_views(jnp.asarray(logits), "logits"), expected, rtol=1e-6, atol=1e-6
  )


def test_fusion_of_softmax_is_the_mean_probability():
  logits = views()
  expected = np.zeros((2, 5))
  for b, video in enumerate(logits):
    for view in video:
      expected[b] += np.exp(view) / np.exp(view).sum() / len(video)
  np.testing.assert_allclose(
    fuse_views(jnp.asarray(logits), "softmax"), expected, rtol=1e-5, atol=1e-7
  )


def test_fusion_is_in_float32():
  # In bfloat16 256 + 1 is 256.
  logits = jnp.asarray([[[256.0], [1.0]]], jnp.bfloat16)
  assert float(fuse_views(logits, "logits")[0, 0]) == 257


def test_unknown_fusion_is_named():
  with pytest.raises(ValueError, match=r"eval.fusion is 'vote'; use one of"):
    fuse_views(jnp.zeros((1, 1, 1)), "vote")
