"""What a run leaves behind: config, summary, evaluation, examples, report."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import time
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64
from PIL import Image

from vidjax.checks import Config
from vidjax.data.manifest import Manifest
from vidjax.data.pipeline import eval_batches
from vidjax.evaluate import Evaluation
from vidjax.report import write_report
from vidjax.scores import SCORES, head_scores, write_scores
from vidjax.train.run import Run

EXAMPLES = 6  # of right and of wrong predictions each
_PACKAGES = (
  "vidjax",
  "jax",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "av",
)


def prepare_workdir(workdir: pathlib.Path, config: Config) -> None:
  """Makes the work directory and writes config.json.

  Raises:
    OSError: if it cannot be written; the message says what to do.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", config.to_dict())
  except OSError as error:
    raise OSError(
      f"the work directory {workdir} cannot be written ({error.strerror}): "
      "choose another with --workdir, or free space and check permissions"
    ) from error


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes a JSON file that is never seen half-written."""
  part = path.with_name(path.name + ".part")
  part.write_text(json.dumps(value, indent=1) + "\n")
  os.replace(part, path)


def write_results(
  workdir: pathlib.Path,
  config: Config,
  run: Run,
  evaluation: Evaluation,
  manifest: Manifest,
  *,
  step: int,
  began: float,
) -> dict[str, Any]:
  """Writes summary.json, eval.json, scores.npz, example clips, report.html.

  Args:
    workdir: of the run.
    config: of the run.
    run: its model.
    evaluation: the last evaluation.
    manifest: the evaluated split.
    step: optimiser steps of the evaluated parameters.
    began: `time.perf_counter()` at the start of the training or evaluation.

  Returns:
    The summary.
  """
  summary = {
    "name": config.name,
    "model": config.model.name,
    "params": run.parameters,
    "gmacs_per_view": float(f"{run.multiply_adds / 1e9:.6g}"),
    "steps": step,
    "wall_seconds": round(time.perf_counter() - began, 1),
    **evaluation.metrics,
    "eval/views": evaluation.views,
    "eval/videos": len(manifest.clips),
    "eval/failed": len(evaluation.failed),
    "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
  }
  if jax.process_index():
    return summary
  write_json(workdir / "summary.json", summary)
  heads = head_scores(evaluation.scores, manifest)
  for number, (name, scores) in enumerate(heads.items()):
    file = f"scores_{name}.npz" if number else SCORES
    write_scores(workdir / file, scores)
  write_json(
    workdir / "eval.json",
    {
      "classes": list(manifest.classes),
      "confusion": evaluation.confusion,
      "per_class": evaluation.per_class,
      "top1": evaluation.metrics["eval/top1"],
      "top5": evaluation.metrics["eval/top5"],
      "views": evaluation.views,
      "videos": len(manifest.clips),
      "failed": evaluation.failed,
      "examples": _write_examples(workdir, config, evaluation, manifest),
    },
  )
  write_report(workdir)
  return summary


def _write_examples(
  workdir: pathlib.Path,
  config: Config,
  evaluation: Evaluation,
  manifest: Manifest,
) -> list[dict[str, Any]]:
  """Writes a few evaluated clips as small animations, some of them wrong."""
  chosen = _choose(evaluation, manifest)
  some = dataclasses.replace(
    manifest, clips=tuple(manifest.clips[i] for i in chosen)
  )
  folder = workdir / "examples"
  folder.mkdir(exist_ok=True)
  examples = []
  with eval_batches(
    some,
    config.data,
    batch_size=1,
    clips=1,
    crops=1,
    crop_style=config.eval.crop_style,
    short_side=config.eval.short_side,
  ) as batches:
    for number, (index, batch) in enumerate(zip(chosen, batches, strict=True)):
      path = folder / f"{number:04}.webp"
      frames = [Image.fromarray(frame) for frame in batch["video"][0, 0]]
      frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=120, loop=0
      )
      examples.append(
        {
          "id": manifest.clips[index].id,
          "label": manifest.clips[index].label,
          "prediction": int(evaluation.prediction[index]),
          "probability": float(
            evaluation.scores[index, evaluation.prediction[index]]
          ),
          "frames": str(path.relative_to(workdir)),
        }
      )
  return examples


def _choose(evaluation: Evaluation, manifest: Manifest) -> list[int]:
  labels = np.array([clip.label for clip in manifest.clips])
  failed = np.isin([clip.id for clip in manifest.clips], evaluation.failed)
  right = np.flatnonzero((evaluation.prediction == labels) & ~failed)
  wrong = np.flatnonzero((evaluation.prediction != labels) & ~failed)
  return [*_spread(wrong).tolist(), *_spread(right).tolist()]


def _spread(indices: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
  """Returns a few indices from all over a list sorted by class."""
  count = min(EXAMPLES, len(indices))
  return indices[np.linspace(0, len(indices) - 1, count).astype(int)]
