"""Features of videos in a NumPy archive or a Parquet file.

A row is a view: `video` (its path), `window` and `view` (numbers), `start` and
`stop` (seconds), `clip` (c values, the mean of the frames) and `frames` (s x c
values, one row of c for each frame or tubelet).
"""

import dataclasses
import os
import pathlib
import types
from typing import Any

import numpy as np

from vidjax.prediction.results import Features, Prediction

_COLUMNS = tuple(field.name for field in dataclasses.fields(Features))


class _Archive:
  """Collects rows; closing writes an archive of them, and says if any came."""

  def __init__(self, path: pathlib.Path):
    self._file = path.open("wb")
    self._parts: list[dict[str, np.ndarray]] = []

  def add(self, columns: dict[str, np.ndarray]) -> None:
    self._parts.append(columns)

  def close(self) -> bool:
    columns: dict[str, Any] = {
      name: np.concatenate([part[name] for part in self._parts])
      for name in (self._parts[0] if self._parts else ())
    }
    with self._file as file:
      np.savez(file, **columns)
    return bool(columns)


class _Table:
  """Writes rows to a Parquet file as they come; closing says if any came."""

  def __init__(self, path: pathlib.Path):
    self._file = path.open("wb")
    self._writer: Any = None

  def add(self, columns: dict[str, np.ndarray]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    arrays = {name: _arrow(values) for name, values in columns.items()}
    table = pa.table(arrays)
    if self._writer is None:
      self._writer = parquet.ParquetWriter(self._file, table.schema)
    self._writer.write_table(table)

  def close(self) -> bool:
    filled = self._writer is not None
    if filled:
      self._writer.close()
    self._file.close()
    return filled


def _arrow(values: np.ndarray) -> Any:
  """An Arrow array; further axes become lists of a fixed size."""
  import pyarrow as pa

  array = pa.array(values.ravel())
  for size in reversed(values.shape[1:]):
    array = pa.FixedSizeListArray.from_arrays(array, size)
  return array


_KINDS = {".npz": _Archive, ".parquet": _Table}
FEATURE_SUFFIXES = tuple(_KINDS)


class FeatureFile:
  """A file of features, to be filled; a context manager.

  It appears when the context ends, but not without a row or with an error.

  Args:
    path: ending with .npz (written at the end: all rows stay in memory) or
      .parquet (written video by video).

  Raises:
    OSError: if it cannot be written.
  """

  def __init__(self, path: str | os.PathLike[str]):
    self._path = pathlib.Path(path)
    self._part = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
    self._kind = _KINDS[self._path.suffix.lower()]

  def __enter__(self) -> "FeatureFile":
    self._rows = self._kind(self._part)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    try:
      filled = self._rows.close()
      if error is None and filled:
        self._part.replace(self._path)
    finally:
      self._part.unlink(missing_ok=True)

  def add(self, prediction: Prediction) -> None:
    """Adds the rows of a video.

    Raises:
      ValueError: if it was predicted without features.
    """
    features = prediction.features
    if features is None:
      raise ValueError(
        f"{prediction.path} was predicted without features: ask for them"
      )
    columns = {name: getattr(features, name) for name in _COLUMNS}
    video = np.full(len(features.clip), str(prediction.path))
    self._rows.add({"video": video} | columns)
