"""Multi-view evaluation that counts every video exactly once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int64

from vidjax.checks import Config
from vidjax.data.manifest import Manifest
from vidjax.data.pipeline import eval_batches
from vidjax.scores import head_accuracies
from vidjax.train.distributed import batch_part
from vidjax.train.metrics import ClassificationSums
from vidjax.train.prefetch import DevicePrefetch
from vidjax.train.sharding import check_batch, on_mesh
from vidjax.train.step import make_eval_step


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of one pass over a split.

  Attributes:
    metrics: "eval/top1", "eval/top5", "eval/class_accuracy" (mean over the
      classes) as shares in [0, 1]; of the first head if there are two, whose
      own are "eval/<head>/top1", ... and those of pairs "eval/action/top1".
    views: clips x crops, e.g. "1x3".
    per_class: accuracy of each class; None for a class without videos.
    confusion: videos by true class (rows) and predicted class.
    prediction: class of each video of the manifest, in its order.
    scores: probabilities of all classes, mean softmax of the views, by video;
      NaN for one that could not be read.
    failed: ids of all videos that could not be read, in the manifest's order;
      they count as wrong.
  """

  metrics: dict[str, float]
  views: str
  per_class: list[float | None]
  confusion: list[list[int]]
  prediction: Int64[np.ndarray, " n"]
  scores: Float32[np.ndarray, "n k"]
  failed: list[str]

  def describe(self) -> str:
    """Returns the accuracies with their views, in one line."""
    failed = f", {len(self.failed)} unreadable" if self.failed else ""
    return (
      f"top-1 {100 * self.metrics['eval/top1']:.2f} %, "
      f"top-5 {100 * self.metrics['eval/top5']:.2f} % "
      f"({self.views} clips x crops, {len(self.prediction)} videos{failed})"
    )


def make_evaluator(
  definition: Any, config: Config, manifest: Manifest, mesh: Mesh
) -> Callable[[Any, Any], Evaluation]:
  """Returns `(params, stats) -> Evaluation` over all videos of a manifest.

  The last batch is padded and masked, so the numbers do not depend on the
  batch size or on the number of devices.

  Raises:
    ValueError: if eval.batch_size does not divide over the mesh.
  """
  options = config.eval
  check_batch("eval.batch_size", options.batch_size, mesh)
  replicated = NamedSharding(mesh, PartitionSpec())
  step = on_mesh(
    mesh,
    jax.jit(
      make_eval_step(definition, config),
      out_shardings=replicated,
      donate_argnums=2,
    ),
  )

  def evaluate(params: Any, stats: Any) -> Evaluation:
    sums = jax.device_put(
      ClassificationSums.empty(len(manifest.classes)), replicated
    )
    prediction = np.full(len(manifest.clips), -1, np.int64)
    width = sum(config.data.head_sizes) or len(manifest.classes)
    scores = np.full((len(manifest.clips), width), np.nan, np.float32)
    readable = np.ones(len(manifest.clips), bool)
    host, hosts = batch_part(mesh)
    host_batches = eval_batches(
      manifest,
      config.data,
      batch_size=options.batch_size,
      clips=options.clips,
      crops=options.crops,
      crop_style=options.crop_style,
      short_side=options.short_side,
      host=host,
      hosts=hosts,
    )
    with (
      host_batches,
      DevicePrefetch(host_batches, mesh) as batches,
    ):
      for batch in batches:
        sums, found = step(params, stats, sums, batch)
        found = jax.device_get(found)
        real = found["mask"] > 0
        prediction[found["index"][real]] = found["prediction"][real]
        readable[found["index"][real]] = found["readable"][real]
        read = real & found["readable"]
        scores[found["index"][read]] = found["scores"][read]
    result = sums.compute()
    metrics = {
      "eval/top1": result["top1"],
      "eval/top5": result["top5"],
      "eval/class_accuracy": result["mean_class_accuracy"],
    }
    if config.data.head_sizes:
      heads = head_accuracies(scores, manifest)
      metrics |= {f"eval/{name}": value for name, value in heads.items()}
    return Evaluation(
      metrics=metrics,
      views=f"{options.clips}x{options.crops}",
      per_class=result["per_class"],
      confusion=result["confusion"],
      prediction=prediction,
      scores=scores,
      failed=[manifest.clips[i].id for i in np.flatnonzero(~readable)],
    )

  return evaluate
