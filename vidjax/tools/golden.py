"""Stored runs of official code: one `.npz` a case, read and compared."""

import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Shaped

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
