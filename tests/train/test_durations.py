import re

import pytest
from ml_collections import ConfigDict

from vidjax.train.durations import in_steps

NAMES = {"train.": "", "eval.every_": "every_", "checkpoint.every_": "every_"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
  ("epochs", "steps", "expected"),
  [
    (0, 7, 7),
    (0.0, 1, 1),
    (1.0, 0, 40),
    (2, 0, 80),
    (0.3, 0, 12),
    (0.33, 0, 13),  # 13.2, rounded
    (0.34, 0, 14),  # 13.6, rounded
    (1e-6, 0, 1),  # at least one
  ],
)
def test_steps(name, epochs, steps, expected):
  prefix = NAMES[name]
  section = ConfigDict({f"{prefix}epochs": epochs, f"{prefix}steps": steps})
  found = in_steps(name, section, steps_per_epoch=40)
  assert found == expected
  assert isinstance(found, int)


@pytest.mark.parametrize(
  ("epochs", "steps"), [(1.0, 5), (0.0, 0), (-1.0, 0), (0.0, -5), (-1.0, 5)]
)
def test_not_exactly_one(epochs, steps):
  section = ConfigDict({"every_epochs": epochs, "every_steps": steps})
  sentence = (
    f"eval.every_epochs is {epochs} and eval.every_steps is {steps}: set one "
    "of them to a positive number and the other to 0"
  )
  with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
    in_steps("eval.every_", section, steps_per_epoch=40)
