import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from vidjax.train.schedule import gradual_cosine, learning_rate


def config(**changes):
  return ConfigDict(
    {"base_lr": 0.4, "warmup_epochs": 2, "warmup_factor": 0.01, "final_lr": 0.1}
    | changes
  )


def rate(step, epochs=5, per_epoch=4, **changes):
  return float(gradual_cosine(config(**changes), epochs, per_epoch)(step))


def test_line_then_cosine_one_step_late():
  for step in range(9):
    wanted = 0.4 * (0.01 + 0.99 * step / 8)
    assert math.isclose(rate(step), wanted, rel_tol=1e-6)
  for step in range(9, 20):
    angle = math.pi * (step - 9) / 12
    wanted = 0.1 + 0.3 * (1 + math.cos(angle)) / 2
    assert math.isclose(rate(step), wanted, rel_tol=1e-5)
  assert rate(8) == rate(9)


def test_many_steps_at_once():
  steps = np.arange(20)
  np.testing.assert_allclose(
    gradual_cosine(config(), 5, 4)(steps), [rate(step) for step in steps]
  )


def test_a_step_has_the_rate_of_its_last_micro_batch():
  options = config(name="gradual_cosine")
  schedule = learning_rate(options, 15, 3, micro_batches=4)
  for step in range(15):
    wanted = rate(4 * step + 3, per_epoch=12)
    assert math.isclose(float(schedule(step)), wanted, rel_tol=1e-6)


def test_no_warm_up():
  assert math.isclose(rate(0, warmup_epochs=0), 0.4, rel_tol=1e-6)
  assert math.isclose(rate(1, warmup_epochs=0), 0.4, rel_tol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base_lr": -1.0}, r"schedule.base_lr is -1\.0; use a number of 0 or"),
    ({"final_lr": math.inf}, "schedule.final_lr is inf"),
    ({"warmup_factor": 2.0}, r"warmup_factor is 2\.0; use a number in \[0, 1"),
  ],
)
def test_errors(changes, message):
  with pytest.raises(ValueError, match=message):
    rate(0, **changes)
