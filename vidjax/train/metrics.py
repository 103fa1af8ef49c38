"""Classification accuracy as sums that can be merged in any order."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool, Float, Int, Num

from vidjax.checks import one_of

_FUSIONS = {
  "logits": lambda logits: logits.sum(axis=1),
  "softmax": lambda logits: jax.nn.softmax(logits, axis=-1).mean(axis=1),
}


@struct.dataclass
class ClassificationSums:
  """Counts that give the accuracies of a set of examples, k classes.

  Whole numbers (int32), so any partition of the examples gives the same.

  Attributes:
    top1: examples whose label has the highest score, scalar.
    top5: examples whose label is among the five highest scores, scalar.
    count: examples by true class, (k).
    confusion: examples by true class (rows) and predicted class, (k k). An
      example with a NaN score has no predicted class.
  """

  # Any and not jax.Array: the trees of their shapes and shardings are of this
  # class too.
  top1: Any
  top5: Any
  count: Any
  confusion: Any

  @classmethod
  def empty(cls, num_classes: int) -> "ClassificationSums":
    """Returns the sums of no examples."""
    return cls(
      top1=jnp.zeros((), jnp.int32),
      top5=jnp.zeros((), jnp.int32),
      count=jnp.zeros(num_classes, jnp.int32),
      confusion=jnp.zeros((num_classes, num_classes), jnp.int32),
    )

  def update(
    self,
    logits: Float[jax.Array, "b k"],
    labels: Int[jax.Array, " b"],
    mask: Num[jax.Array, " b"] | Bool[jax.Array, " b"],
  ) -> "ClassificationSums":
    """Returns the sums with a batch added; pure, to be used under jit.

    Among equal scores the class of the lowest index comes first. An example
    with a NaN score is wrong.

    Args:
      logits: scores of any scale.
      labels: true classes, in [0, k) in the rows that are counted.
      mask: 0 for rows that are not to be counted.

    Raises:
      ValueError: if the number of scores is not that of the classes.
    """
    classes, scores = len(self.count), logits.shape[-1]
    if scores != classes:
      raise ValueError(
        f"the model gives {scores} scores, but the data has {classes} classes: "
        f"set model.num_classes to {classes}"
      )
    real = mask > 0
    valid = real & ~jnp.isnan(logits).any(axis=-1)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    earlier = jnp.arange(classes) < labels[:, None]
    ahead = (logits > own) | ((logits == own) & earlier)
    rank = ahead.sum(axis=-1)
    return ClassificationSums(
      top1=self.top1 + (valid & (rank < 1)).sum(dtype=jnp.int32),
      top5=self.top5 + (valid & (rank < 5)).sum(dtype=jnp.int32),
      count=self.count.at[labels].add(real.astype(jnp.int32)),
      confusion=self.confusion.at[labels, logits.argmax(axis=-1)].add(
        valid.astype(jnp.int32)
      ),
    )

  def merge(self, other: "ClassificationSums") -> "ClassificationSums":
    """Returns the sums of both sets of examples."""
    return jax.tree.map(jnp.add, self, other)

  def compute(self) -> dict[str, Any]:
    """Divides the sums, on the host, for a JSON file.

    Returns:
      "top1", "top5" and "mean_class_accuracy" (over the classes with examples)
      as shares in [0, 1], NaN without any example; "per_class": accuracy of
      each class, None for a class without examples; "confusion": rows of
      counts, true class first; "count": number of examples.
    """
    confusion = np.asarray(self.confusion)
    counts = np.asarray(self.count).tolist()
    total = sum(counts)
    hits = np.diag(confusion).tolist()
    per_class = [
      hit / count if count else None
      for hit, count in zip(hits, counts, strict=True)
    ]
    return {
      "top1": _share(int(self.top1), total),
      "top5": _share(int(self.top5), total),
      "mean_class_accuracy": _share(
        sum(share for share in per_class if share is not None),
        sum(share is not None for share in per_class),
      ),
      "per_class": per_class,
      "confusion": confusion.tolist(),
      "count": total,
    }


def _share(part: float | int, whole: int) -> float:
  return part / whole if whole else float("nan")


def fuse_views(
  logits: Float[jax.Array, "b v k"], how: str
) -> Float[jax.Array, "b k"]:
  """Makes one score per class of the scores of several views of a video.

  Args:
    logits: of each view.
    how: "logits" for their sum (X-ViT), "softmax" for the mean of the views'
      probabilities. Computed in float32.

  Raises:
    ValueError: if `how` is neither.
  """
  one_of("eval.fusion", how, _FUSIONS)
  return _FUSIONS[how](logits.astype(jnp.float32))
