"""Stored runs of official code: one `.npz` a case, read and compared."""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped

from vidjax.models.backbone import Backbone
from vidjax.nn.functional import Tree, merge, split
from vidjax.weights.convert import convert, official_state
from vidjax.weights.keys import KeyTable
from vidjax.weights.layouts import layout_of

LOGIT_TOLERANCE = 1e-5  # times the largest logit, or 1 if that is larger
GRADIENT_TOLERANCE = 1e-4  # times the largest entry of each gradient


@dataclasses.dataclass(frozen=True)
class Case:
  """One stored run: what it is, and its arrays by name."""

  path: pathlib.Path
  family: str
  name: str
  kind: str
  official: Mapping
  arrays: Mapping[str, Shaped[np.ndarray, "..."]]

  def under(self, prefix: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns the arrays whose names start with `prefix`, which is cut."""
    return {
      name.removeprefix(prefix): value
      for name, value in self.arrays.items()
      if name.startswith(prefix)
    }


@dataclasses.dataclass(frozen=True)
class Result:
  """Errors of one case, already divided by what they are relative to.

  A case without gradients has a gradient error of 0.
  """

  logit_error: float
  logit_scale: float = 1.0
  gradient_error: float = 0.0

  @property
  def passed(self) -> bool:
    """Whether both errors are within tolerance (NaN is not)."""
    return (
      self.logit_error <= LOGIT_TOLERANCE * self.logit_scale
      and self.gradient_error <= GRADIENT_TOLERANCE
    )


def largest_error(
  ours: Shaped[np.ndarray, "..."], theirs: Shaped[np.ndarray, "..."]
) -> float:
  """Returns the largest absolute difference; infinite if shapes differ."""
  if ours.shape != theirs.shape:
    return float("inf")
  if not ours.size:
    return 0.0
  difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
  return float(np.abs(difference).max())


def relative_error(
  ours: Shaped[np.ndarray, "..."], theirs: Shaped[np.ndarray, "..."]
) -> float:
  """Returns the largest difference over the largest stored entry."""
  scale = float(np.abs(theirs).max(initial=0.0))
  error = largest_error(ours, theirs)
  return error / scale if scale else error


def gradient_errors(
  case: Case,
  ours: Mapping[str, Shaped[np.ndarray, "..."]],
  prefix: str = "g/",
) -> list[float]:
  """Returns the relative error of every array stored under a prefix.

  Counters of batches, which vidjax has not, are left out.
  """
  return [
    relative_error(ours[name], value)
    for name, value in case.under(prefix).items()
    if not name.endswith("num_batches_tracked")
  ]


def logit_scale(theirs: Shaped[np.ndarray, "..."]) -> float:
  """Returns what errors are relative to: the largest entry, or 1."""
  return max(1.0, float(np.abs(theirs).max(initial=0.0)))


class Loaded(NamedTuple):
  """A model with a case's weights, taken apart.

  Attributes:
    definition: as `vidjax.nn.functional.split` returns it, as the next two.
    params: parameters.
    stats: running statistics.
    table: official keys of both.
    round_trip: largest error of the weights that official code would get
      back, which must be 0.
  """

  definition: Any
  params: Tree
  stats: Tree
  table: KeyTable
  round_trip: float

  def export(self, tree: Tree) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns a tree like `params` or `stats` by official keys."""
    return self.table.export(jax.device_get(tree))


def load_case(case: Case, model: Backbone) -> Loaded:
  """Brings a case's weights to a model and back.

  Raises:
    WeightsError: if they do not fit.
  """
  stored = case.under("w/")
  converted = convert(stored, model)
  definition = split(model)[0]
  trees = (converted.params, converted.stats)
  ours = official_state(merge(definition, *trees))
  ignored = {key for key, _ in converted.report.ignored}
  errors = [
    largest_error(ours[key], value) if key in ours else float("inf")
    for key, value in stored.items()
    if key not in ignored
  ]
  table = layout_of(model).table
  return Loaded(definition, *trees, table, max(errors))


def read_case(path: pathlib.Path) -> Case:
  """Reads one golden file.

  Raises:
    ValueError: if the file is no golden case.
  """
  try:
    # NumPy would leave a broken archive open, and read other kinds of files.
    if path.exists() and not zipfile.is_zipfile(path):
      raise ValueError("it is no archive")
    with np.load(path) as file:
      arrays = {name: file[name] for name in file.files}
    meta = json.loads(bytes(arrays.pop("meta")).decode())
    return Case(
      path=path,
      family=meta["family"],
      name=meta["case"],
      kind=meta["kind"],
      official=meta["official"],
      arrays=arrays,
    )
  except (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise ValueError(
      f"{path} is not a golden case ({error}); give .npz files whose `meta` "
      "names family, case, kind and official"
    ) from error


def find_cases(paths: list[str]) -> Iterator[pathlib.Path]:
  """Yields golden files: each file named, and all below each folder.

  Raises:
    ValueError: if a path does not exist or a folder holds no `.npz` file.
  """
  for name in paths:
    path = pathlib.Path(name)
    found = sorted(path.rglob("*.npz")) if path.is_dir() else [path]
    if not found or not found[0].exists():
      raise ValueError(f"no golden case at {path}; give a file or a folder")
    yield from found
