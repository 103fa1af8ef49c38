"""The two splits that a configuration names."""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import logging

from vidjax.checks import one_of
from vidjax.data.manifest import Manifest, ManifestError, load_manifest
from vidjax.data.motion import write_motion_clips

ALL_HEADS = "all"  # as data.head: train on the labels of all of them


def open_splits(
  config: Any, workdir: pathlib.Path
) -> tuple[Manifest, Manifest]:
  """Returns the training and evaluation manifests.

  Clips that the index marks as unusable are left out of training, with a
  warning; in evaluation they stay, and count as failed. With several heads
  trained at once the training split has joint labels (`Manifest.joined`), and
  the evaluation split those of the first head.

  Args:
    config: the whole configuration.
    workdir: where the built-in motion clips go if `data.root` is empty.

  Raises:
    ManifestError: if there is no data set, or it has another number of
      classes than the model.
  """
  data = config.data
  one_of("data.source", data.source, ("manifest", "motion"))
  if data.source == "motion":
    root = pathlib.Path(data.root) if data.root else workdir / "motion"
    write_motion_clips(root, **config.motion)
  elif not data.root:
    raise ManifestError(
      "data.root is empty: name the folder of your videos' manifest with "
      "--config.data.root=DIR (docs/data.md)."
    )
  else:
    root = pathlib.Path(data.root)
  head = data.get("head", "")  # runs of former versions have no such key
  train = _open(root, data.train_split, head)
  val = _open(root, data.eval_split, head)
  if bad := train.bad():
    logging.warning(
      "%d of the %d clips of split %r are left out, which the index found "
      "unusable: %s",
      sum(bad.values()),
      len(train.clips),
      train.split,
      bad,
    )
    train = train.usable()
  if head == ALL_HEADS:
    _check_sizes(train, data.head_sizes)
    train = train.joined()
  classes, logits = sum(_sizes(train, head)), config.model.num_classes
  if classes != logits:
    raise ManifestError(
      f"{root} has {classes} classes, but the model has {logits} logits: set "
      f"--config.model.num_classes={classes}."
    )
  return train, val


def _open(root: pathlib.Path, split: str, head: str) -> Manifest:
  manifest = load_manifest(root, split)
  return manifest.of_head(head) if head not in ("", ALL_HEADS) else manifest


def _sizes(manifest: Manifest, head: str) -> tuple[int, ...]:
  if head != ALL_HEADS:
    return (len(manifest.classes),)
  return tuple(len(classes) for classes in manifest.heads.values())


def _check_sizes(manifest: Manifest, sizes: Sequence[int]) -> None:
  wanted = _sizes(manifest, ALL_HEADS)
  if tuple(sizes) != wanted:
    raise ManifestError(
      f"the heads of {manifest.root} ({', '.join(manifest.heads)}) have "
      f"{wanted} classes, but data.head_sizes is {tuple(sizes)}: set "
      f"--config.data.head_sizes={wanted} and "
      f"--config.model.num_classes={sum(wanted)}."
    )
