"""Several labels a clip, such as verb and noun: one classifier, cut in parts.

The logits of all heads lie side by side, which is a linear classifier for each.
In training a clip carries one number for the combination of its labels
(`vidjax.data.manifest.Manifest.joined`), so that whatever handles labels need
not know of heads. Without sizes there is one head and everything stays.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from vidjax.train.losses import Targets


def split_logits(
  logits: Float[jax.Array, "*batch k"], sizes: Sequence[int]
) -> list[Float[jax.Array, "*batch n"]]:
  """Returns the logits of each head.

  Args:
    logits: of all heads.
    sizes: classes of each head; empty for a single one.

  Raises:
    ValueError: if the sizes do not add up to the logits.
  """
  if not sizes:
    return [logits]
  if sum(sizes) != logits.shape[-1]:
    raise ValueError(
      f"data.head_sizes is {tuple(sizes)}, but the model has "
      f"{logits.shape[-1]} logits: set model.num_classes to {sum(sizes)}"
    )
  stops = np.cumsum(sizes).tolist()
  return [
    logits[..., stop - size : stop]
    for size, stop in zip(sizes, stops, strict=True)
  ]


def split_labels(
  labels: Int[jax.Array, " b"], sizes: Sequence[int]
) -> list[Int[jax.Array, " b"]]:
  """Returns the label of each head from the number of their combination.

  Args:
    labels: of two heads of m and n classes, n times the first plus the second.
    sizes: as in `split_logits`.
  """
  if not sizes:
    return [labels]
  return [
    labels // math.prod(sizes[number + 1 :]) % size
    for number, size in enumerate(sizes)
  ]


def split_targets(targets: Targets, sizes: Sequence[int]) -> list[Targets]:
  """Returns the targets of each head, mixed ones included."""
  if not isinstance(targets, tuple):
    return list(split_labels(targets, sizes))
  first, second, lam = targets
  pairs = zip(
    split_labels(first, sizes), split_labels(second, sizes), strict=True
  )
  return [(a, b, lam) for a, b in pairs]
