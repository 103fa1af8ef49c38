"""Losses per example, and their mean over the examples that count."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num

# The true class of each example, or two classes and the weight of the first.
Targets = (
  Int[jax.Array, " b"]
  | tuple[Int[jax.Array, " b"], Int[jax.Array, " b"], Float[jax.Array, " b"]]
)


def cross_entropy(
  logits: Float[jax.Array, "b k"],
  targets: Targets,
  label_smoothing: float | int = 0.0,
) -> Float[jax.Array, " b"]:
  """Returns the label-smoothed cross entropy of each example, in float32.

  `(1 - s) * -log p[y] + s * mean over all k classes of -log p`: the smoothing
  is uniform over all classes, the true one included (Szegedy et al. 2016).
  For a mixed example it is `lam * loss(ya) + (1 - lam) * loss(yb)` (mixup,
  Zhang et al. 2018).

  Args:
    logits: of any float dtype.
    targets: classes `(b)`, or `(ya, yb, lam)` of mixed examples.
    label_smoothing: s, in [0, 1).

  Raises:
    ValueError: if s is outside of its range.
  """
  s = label_smoothing
  if not 0 <= s < 1:
    raise ValueError(f"label_smoothing is {s}; use a value in [0, 1)")
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)

  def nll(labels: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]

  if isinstance(targets, tuple):
    first, second, lam = targets
    true_class = lam * nll(first) + (1 - lam) * nll(second)
  else:
    true_class = nll(targets)
  return (1 - s) * true_class - s * log_p.mean(axis=-1)


def weighted_mean(
  values: Num[jax.Array, " b"],
  weight: Num[jax.Array, " b"] | Bool[jax.Array, " b"],
) -> Float[jax.Array, ""]:
  """Returns `sum(weight * values) / sum(weight)` in float32.

  A value of weight 0 has no influence even if it is not finite; without any
  weight the mean is 0.
  """
  weight = weight.astype(jnp.float32)
  values = jnp.where(weight > 0, values.astype(jnp.float32), 0)
  total = jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
  return (weight * values).sum() / total
