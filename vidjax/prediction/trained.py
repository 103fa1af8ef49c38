"""A trained model with all that its use needs, from a run or from weights."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging
from jaxtyping import DTypeLike

from vidjax.checks import Config
from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.motion import CLASSES
from vidjax.data.source import ALL_HEADS
from vidjax.data.views import Views
from vidjax.models.backbone import Backbone
from vidjax.models.registry import model_spec
from vidjax.nn.functional import merge, split
from vidjax.train.restore import load_run
from vidjax.train.run import abstract_model
from vidjax.weights.info import read_info
from vidjax.weights.pretrained import WEIGHTS, find_pretrained, load_pretrained

_NEEDED = ("frames", "image_size", "sampling", "stride", "mean", "std")
_VIEWS = tuple(field.name for field in dataclasses.fields(Views))


class CheckpointSourceError(ValueError):
  """What was named is neither a run nor a pretrained folder."""


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model, its classes, and what its clips must be like.

  Attributes:
    model: with its weights.
    labels: name of each class; of several heads, one head after the other, as
      "verb: take".
    head_sizes: classes of each head; empty if there is one.
    views: those of its evaluation.
    mean: of pixels scaled to [0, 1], by channel.
    std: of the same.
    description: model and origin, in one line.
  """

  model: Backbone
  labels: tuple[str, ...]
  head_sizes: tuple[int, ...]
  views: Views
  mean: tuple[float, ...]
  std: tuple[float, ...]
  description: str


def load_trained(
  checkpoint: str | os.PathLike[str], *, dtype: DTypeLike | None = None
) -> Trained:
  """Loads a model with its classes, preprocessing and views.

  Args:
    checkpoint: the work directory of a run (its best checkpoint, else the
      newest), a pretrained folder, or a repository of the Hub ("owner/name").
    dtype: compute dtype; None is that of the run, float32 for other weights.

  Raises:
    ValueError: if there is no such model, it is damaged, or it does not say
      what its clips must be like.
  """
  path = pathlib.Path(checkpoint)
  if path.is_dir() and not (path / WEIGHTS).is_file():
    if not (path / "config.json").is_file():
      raise CheckpointSourceError(
        f"{path} holds no model: name the work directory of a training run "
        "(with config.json and checkpoints) or a pretrained folder (with "
        f"config.json and {WEIGHTS})"
      )
    return _of_run(path, dtype)
  if path.is_file():
    raise CheckpointSourceError(
      f"{path} is a file, which does not say its classes and preprocessing: "
      "make a pretrained folder of it with vidjax.tools.port"
    )
  return _of_pretrained(checkpoint, dtype)


def _of_run(workdir: pathlib.Path, dtype: DTypeLike | None) -> Trained:
  model, config, name = load_run(workdir)
  if dtype is not None:
    config.dtype = str(dtype)
    _, params, stats = split(model)
    model = merge(split(abstract_model(config))[0], params, stats)
  known: dict[str, Any] = {**config.data.to_dict(), **config.eval.to_dict()}
  return Trained(
    model,
    labels=_run_labels(workdir, config),
    head_sizes=tuple(config.data.get("head_sizes", ())),
    views=_views(known, str(workdir)),
    mean=tuple(map(float, known["mean"])),
    std=tuple(map(float, known["std"])),
    description=f"{config.model.name}, {name}",
  )


def _of_pretrained(
  source: str | os.PathLike[str], dtype: DTypeLike | None
) -> Trained:
  folder = find_pretrained(source)
  info = read_info(folder)
  known = {
    "frames": model_spec(info.name).frames,
    "image_size": info.options["image_size"],
  } | dict(info.preprocessing)
  views = _views(known, str(folder))
  return Trained(
    model=load_pretrained(folder, dtype="float32" if dtype is None else dtype),
    labels=info.labels or _numbered(info.options["num_classes"], folder),
    head_sizes=(),
    views=views,
    mean=tuple(map(float, known["mean"])),
    std=tuple(map(float, known["std"])),
    description=f"{info.name}, {os.fspath(source)}",
  )


def _views(known: Mapping[str, Any], source: str) -> Views:
  """The views; those of former versions' runs, and others, may not say all."""
  missing = [key for key in _NEEDED if key not in known]
  if missing:
    raise CheckpointSourceError(
      f"{source} does not say what clips must be like, without "
      f"{', '.join(missing)}: write it again with "
      "vidjax.save_pretrained(..., preprocessing=...) or vidjax.tools.port "
      "--preprocessing=KEY=VALUE"
    )
  return Views(**{key: known[key] for key in _VIEWS if key in known})


def _run_labels(workdir: pathlib.Path, config: Config) -> tuple[str, ...]:
  """Names of a run's classes: from its data, or what it wrote itself."""
  classes = config.model.num_classes
  data = config.data
  head = data.get("head", "")
  root = pathlib.Path(data.root) if data.root else workdir / "motion"
  found: tuple[str, ...] = ()
  try:
    manifest = load_manifest(root, data.eval_split)
    if head == ALL_HEADS:
      found = tuple(
        f"{name}: {label}"
        for name, labels in manifest.heads.items()
        for label in labels
      )
    else:
      found = (manifest.of_head(head) if head else manifest).classes
  except ManifestError:
    # The data has moved. An evaluation names the first head's classes.
    if head != ALL_HEADS:
      found = _evaluated(workdir)
    if not found and data.source == "motion":
      found = tuple(CLASSES)
  return found if len(found) == classes else _numbered(classes, workdir)


def _evaluated(workdir: pathlib.Path) -> tuple[str, ...]:
  try:
    content = json.loads((workdir / "eval.json").read_text("utf-8"))
    return tuple(map(str, content["classes"]))
  except (OSError, ValueError, KeyError, TypeError):
    return ()


def _numbered(classes: int, source: pathlib.Path) -> tuple[str, ...]:
  logging.warning(
    "%s does not name its %d classes: they are shown by number", source, classes
  )
  return tuple(f"class {number}" for number in range(classes))
