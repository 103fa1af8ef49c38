"""Scores of every video of an evaluated split, to be combined by others."""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Bool, Float32, Int

from vidjax.data.manifest import Manifest

SCORES = "scores.npz"  # of the first head; of others scores_<name>.npz


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one evaluation gave.

  Attributes:
    ids: of the videos.
    labels: true classes.
    scores: probabilities; NaN for a video that could not be read.
    classes: names of the classes.
  """

  ids: tuple[str, ...]
  labels: Int[np.ndarray, " n"]
  scores: Float32[np.ndarray, "n k"]
  classes: tuple[str, ...]


def write_scores(path: pathlib.Path, scores: Scores) -> None:
  """Writes a NumPy archive that is never seen half-written."""
  part = path.with_name(path.name + ".part")
  with part.open("wb") as file:
    np.savez_compressed(
      file,
      ids=np.array(scores.ids, np.str_),
      labels=scores.labels,
      scores=scores.scores,
      classes=np.array(scores.classes, np.str_),
    )
  os.replace(part, path)


def read_scores(path: pathlib.Path) -> Scores:
  """Reads the archive of a run.

  Args:
    path: of the archive, or of the work directory that holds it.

  Raises:
    ValueError: if there is none, or if it is damaged.
  """
  file = path / SCORES if path.is_dir() else path
  try:
    with np.load(file, allow_pickle=False) as archive:
      return Scores(
        ids=tuple(archive["ids"].tolist()),
        labels=archive["labels"],
        scores=archive["scores"],
        classes=tuple(archive["classes"].tolist()),
      )
  except Exception as error:  # zipfile and NumPy raise many kinds
    raise ValueError(
      f"{file} cannot be read ({error}): evaluate the run again "
      "(python -m vidjax.main --mode=eval)"
    ) from error


def top_k(
  scores: Float32[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], k: int
) -> Bool[np.ndarray, " n"]:
  """Says of every video whether its class is among the k highest scores.

  Among equal scores the class of the lowest index comes first; a video with a
  NaN is wrong.
  """
  own = np.take_along_axis(scores, labels[:, None], axis=1)
  earlier = np.arange(scores.shape[1]) < labels[:, None]
  ahead = (scores > own) | ((scores == own) & earlier)
  return (ahead.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)


def mean_scores(parts: list[Scores]) -> Scores:
  """Returns the mean of several models' probabilities.

  Raises:
    ValueError: if the models were not evaluated on the same videos.
  """
  first = parts[0]
  for other in parts[1:]:
    _check_same(first, other)
    if other.classes != first.classes:
      raise ValueError(
        f"one model has {len(first.classes)} classes and another "
        f"{len(other.classes)} or others: only scores of the same classes can "
        "be averaged (--pairs joins those of two heads)"
      )
  mean = np.mean([part.scores for part in parts], axis=0, dtype=np.float32)
  return dataclasses.replace(first, scores=mean)


def top_pairs(first: Scores, second: Scores, k: int) -> Bool[np.ndarray, " n"]:
  """Says of every video whether its pair of classes is among the k best.

  The score of a pair, such as the action of a verb and a noun (EPIC-KITCHENS,
  Damen et al. 2022), is the product of its probabilities.

  Raises:
    ValueError: if the two were not evaluated on the same videos.
  """
  _check_same(first, second)
  a, b = first.scores, second.scores
  rows = np.arange(len(a))
  own = a[rows, first.labels] * b[rows, second.labels]
  # One video at a time: all pairs of all videos would fill the memory.
  better = np.array(
    [
      np.count_nonzero(np.outer(x, y) > score)
      for x, y, score in zip(a, b, own, strict=True)
    ],
    int,
  )
  return (better < k) & ~np.isnan(own)


def head_accuracies(
  scores: Float32[np.ndarray, "n k"], manifest: Manifest
) -> dict[str, float]:
  """Returns the accuracies of each head, and of all of them together.

  Args:
    scores: probabilities of the classes of all heads, side by side.
    manifest: with the labels of two heads.

  Returns:
    "<head>/top1" and "<head>/top5" of both, and "action/..." of their pairs.

  Raises:
    ValueError: if there are not two heads.
  """
  if len(manifest.heads) != 2:
    raise ValueError(
      f"{manifest.root} has {len(manifest.heads)} heads "
      f"({', '.join(manifest.heads)}), but pairs of two are evaluated: set "
      "data.head to one of them"
    )
  parts = head_scores(scores, manifest)
  found = {
    f"{name}/top{k}": top_k(part.scores, part.labels, k)
    for name, part in parts.items()
    for k in (1, 5)
  }
  first, second = parts.values()
  found |= {f"action/top{k}": top_pairs(first, second, k) for k in (1, 5)}
  return {name: float(hits.mean()) for name, hits in found.items()}


def head_scores(
  scores: Float32[np.ndarray, "n k"], manifest: Manifest
) -> dict[str, Scores]:
  """Returns the scores of each head.

  Args:
    scores: of the classes of the first head, or of all heads, side by side.
    manifest: the evaluated split.
  """
  if scores.shape[1] == len(manifest.classes):
    heads = {next(iter(manifest.heads)): manifest.classes}
    labels = np.array([[clip.label] for clip in manifest.clips])
  else:
    heads = manifest.heads
    labels = np.array([clip.labels for clip in manifest.clips])
  ids = tuple(clip.id for clip in manifest.clips)
  stops = np.cumsum([len(classes) for classes in heads.values()])
  return {
    name: Scores(
      ids, labels[:, i], scores[:, stop - len(classes) : stop], classes
    )
    for i, ((name, classes), stop) in enumerate(
      zip(heads.items(), stops, strict=True)
    )
  }


def _check_same(first: Scores, second: Scores) -> None:
  if first.ids != second.ids:
    missing = sorted(set(first.ids) ^ set(second.ids))[:3]
    raise ValueError(
      f"the scores are of other videos or in another order ({len(first.ids)} "
      f"and {len(second.ids)} videos; not in both: {missing}): evaluate all "
      "models on the same split"
    )
