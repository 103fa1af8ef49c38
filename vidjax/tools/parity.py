r"""Compares vidjax with stored outputs of the official PyTorch code.

    python -m vidjax.tools.parity PATH...

A path is a golden `.npz` file or a folder of them. Prints one line a case:
family, case, largest absolute error of the logits, worst relative error of the
gradients, PASS or FAIL. Exits with 1 if any case fails, 2 if none is found.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Float

from vidjax.tools import parity_xvit

Golden = Mapping[str, np.ndarray]

LOGIT_TOLERANCE = 1e-5  # times the largest logit, at least 1
GRADIENT_TOLERANCE = 1e-4  # relative to the largest entry of each gradient


@dataclasses.dataclass(frozen=True)
class Case:
  """One stored run of the official code."""

  path: pathlib.Path
  family: str
  name: str
  kind: str
  official: dict
  arrays: Golden


@dataclasses.dataclass(frozen=True)
class Result:
  """Errors of one case against the stored values."""

  logit_error: float
  logit_limit: float
  gradient_error: float
  gradient_limit: float = GRADIENT_TOLERANCE

  @property
  def passed(self) -> bool:
    """Whether both errors are within their limits (NaN is not)."""
    return (
      self.logit_error <= self.logit_limit
      and self.gradient_error <= self.gradient_limit
    )
