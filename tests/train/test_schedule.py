import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common
from vidjax.train.schedule import learning_rate


def config(**changes):
  values = common.get_config().schedule.to_dict()
  return ml_collections.ConfigDict(values | changes)


def rates(schedule, steps) -> list[float]:
  return jax.vmap(schedule)(jnp.arange(steps)).tolist()


# --- cosine


@pytest.mark.parametrize("steps_per_epoch", [4, 4080])
@pytest.mark.parametrize(
  ("name", "epochs", "warmup_lr"),
  [("k400", 30, 0.01), ("k600", 30, 0.01), ("ssv2", 35, 0.003)],
)
def test_learning_rate_of_the_official_code(
  shared, name, epochs, warmup_lr, steps_per_epoch
):
  with np.load(shared / "golden/xvit/misc.npz") as file:
    epoch, value = (file[f"lr/{name}/{key}"] for key in ("epoch", "value"))
  schedule = learning_rate(
    config(warmup_lr=warmup_lr), epochs * steps_per_epoch, steps_per_epoch
  )
  steps = (epoch * steps_per_epoch).astype(np.int32)
  found = jax.vmap(schedule)(jnp.asarray(steps))
  np.testing.assert_allclose(found, value, rtol=0, atol=1e-8)


def test_warmup_ends_at_the_cosine_and_not_at_the_base_rate():
  schedule = learning_rate(config(), 300, 10)
  assert float(schedule(0)) == pytest.approx(0.01)
  assert float(schedule(50)) == pytest.approx(0.02799, abs=5e-6)
  assert float(schedule(25)) == pytest.approx((0.01 + 0.02799) / 2, abs=5e-6)


def test_the_cosine_goes_from_the_base_to_the_final_rate():
  schedule = learning_rate(config(warmup_epochs=0.0, final_lr=0.002), 10, 3)
  found = [float(schedule(step)) for step in (0, 5, 10)]
  assert found == pytest.approx([0.03, 0.016, 0.002])


# --- epoch_cosine


def mmcv(base, final, epochs, warmup, ratio, length):
  """mmcv's loop over epochs and iterations: rates of all iterations."""
  found = []
  for epoch in range(epochs):
    regular = (
      final + (base - final) * (1 + math.cos(math.pi * epoch / epochs)) / 2
    )
    for _ in range(length):
      i, last = len(found), warmup * length
      k = (1 - i / last) * (1 - ratio) if i < last else 0.0
      found.append(regular * (1 - k))
  return found


@hypothesis.settings(deadline=None, max_examples=8)
@hypothesis.given(
  epochs=st.integers(3, 8),
  length=st.integers(1, 7),
  warmup=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
  ratio=st.sampled_from([0.0, 0.1, 1.0]),
  final=st.sampled_from([0.0, 1e-4]),
)
def test_the_epoch_cosine_is_that_of_mmcv(epochs, length, warmup, ratio, final):
  schedule = learning_rate(
    config(
      name="epoch_cosine",
      base_lr=1e-3,
      final_lr=final,
      warmup_epochs=warmup,
      warmup_factor=ratio,
    ),
    epochs * length,
    length,
  )
  expected = mmcv(1e-3, final, epochs, warmup, ratio, length)
  np.testing.assert_allclose(
    rates(schedule, epochs * length), expected, rtol=3e-6, atol=1e-10
  )


def test_the_epoch_cosine_by_hand():
  schedule = learning_rate(
    config(name="epoch_cosine", base_lr=1e-3, warmup_epochs=2.5), 300, 10
  )
  found = {step: float(schedule(step)) for step in (0, 9, 10, 24, 25, 149, 150)}
  assert found == pytest.approx(
    {
      0: 1e-4,  # a tenth
      9: 1e-3 * 0.424,  # 1 - (16 / 25) 0.9, still in epoch 0
      10: 1e-3 * 0.46 * 0.9972609,  # (1 + cos(pi / 30)) / 2
      24: 1e-3 * 0.964 * 0.9890738,
      25: 1e-3 * 0.9890738,  # of epoch 2, to its end
      149: 1e-3 * 0.5522642,  # epoch 14
      150: 5e-4,
    },
    rel=1e-6,
  )


# --- steps


def test_the_rate_falls_at_the_given_epochs():
  schedule = learning_rate(
    config(name="steps", base_lr=0.2, warmup_epochs=0.0, decay_epochs=(10, 15)),
    18 * 4,
    4,
  )
  expected = [0.2] * 40 + [0.02] * 20 + [0.002] * 12
  np.testing.assert_allclose(rates(schedule, 72), expected, rtol=1e-6)


def test_falls_may_be_close_fractional_late_or_none():
  options = {"name": "steps", "base_lr": 1.0, "warmup_epochs": 0.0}
  options["decay_factor"] = 0.5

  def of(*epochs):
    return rates(
      learning_rate(config(**options, decay_epochs=epochs), 10, 10), 10
    )

  assert of() == [1] * 10
  assert of(0.7, 3) == [1] * 7 + [0.5] * 3
  assert of(0.2, 0.21) == [1] * 2 + [0.25] * 8


def test_steps_warm_up_by_the_linear_rule():
  schedule = learning_rate(
    config(
      name="steps",
      base_lr=1.0,
      warmup_epochs=2.0,
      warmup_factor=0.2,
      decay_epochs=(1, 3),
    ),
    8,
    2,
  )
  expected = [0.2, 0.4, 0.06, 0.08, 0.1, 0.1, 0.01, 0.01]
  np.testing.assert_allclose(rates(schedule, 8), expected, rtol=1e-6)


# --- all of them


@pytest.mark.parametrize("name", ["cosine", "epoch_cosine", "steps"])
def test_under_jit_the_rates_are_the_same(name):
  options = config(name=name, warmup_epochs=1.5, decay_epochs=(2,))
  schedule = learning_rate(options, 12, 3)
  compiled = jax.jit(schedule)
  for step in range(12):
    rate = compiled(jnp.int32(step))
    assert rate.shape == ()
    assert rate.dtype == jnp.float32
    assert float(rate) == pytest.approx(float(schedule(step)), rel=1e-6)


@pytest.mark.parametrize(
  ("changes", "sentence"),
  [
    ({"name": "poly"}, "schedule.name is 'poly'; use one of 'cosine', 'epoch_"),
    ({}, "schedule.warmup_epochs is 5.0, but the training has 2.5 epochs; use"),
    ({"warmup_epochs": -1.0}, "schedule.warmup_epochs is -1.0, but the train"),
    ({"base_lr": -0.1}, "schedule.base_lr is -0.1; use a number of 0 or more"),
    ({"warmup_lr": float("nan")}, "schedule.warmup_lr is nan; use a number"),
    ({"name": "epoch_cosine", "final_lr": -1.0}, "schedule.final_lr is -1.0; "),
    (
      {"name": "epoch_cosine", "warmup_factor": 1.5},
      "schedule.warmup_factor is 1.5; use a number in [0, 1]",
    ),
    ({"name": "steps", "decay_factor": float("inf")}, "decay_factor is inf; "),
    (
      {"name": "steps", "decay_epochs": (15, 10)},
      "schedule.decay_epochs is (15, 10); give positive epochs, each later",
    ),
    ({"name": "steps", "decay_epochs": (1, 1)}, "decay_epochs is (1, 1); give"),
    ({"name": "steps", "decay_epochs": (0, 1)}, "decay_epochs is (0, 1); give"),
  ],
)
def test_what_is_of_no_use_is_one_sentence(changes, sentence):
  defaults = {} if not changes else {"warmup_epochs": 1.0}
  with pytest.raises(ValueError, match=r"\w") as caught:
    learning_rate(config(**(defaults | changes)), 10, 4)
  assert sentence in str(caught.value)
  assert "\n" not in str(caught.value)
