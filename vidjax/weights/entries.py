"""Arrays on their way from a file to a model, with what was done to them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vidjax.weights.transforms import Array, Transform


@dataclasses.dataclass(frozen=True)
class Entry:
  """An array, where it is from, and its changes so far.

  Attributes:
    keys: of the file; none if the array is made here.
    shape: in the file, of the first key.
    value: the array as it is now.
    changes: names of what was done to it.
    unused: why it goes nowhere, if so.
  """

  keys: tuple[str, ...]
  shape: tuple[int, ...]
  value: Array
  changes: tuple[str, ...] = ()
  unused: str = ""

  @property
  def name(self) -> str:
    """The keys as one text."""
    return ", ".join(self.keys) or "(made)"

  def changed(self, value: Array, change: str) -> "Entry":
    """Returns the entry with another value."""
    changes = (*self.changes, change)
    return dataclasses.replace(self, value=value, changes=changes)

  def through(self, transform: Transform) -> "Entry":
    """Returns the entry in another layout."""
    if transform.name == "same":
      return self
    return self.changed(transform.forward(self.value), transform.name)

  def dropped(self, reason: str) -> "Entry":
    """Returns the entry as one that goes nowhere."""
    return dataclasses.replace(self, unused=reason)


State = dict[str, Entry]


def entries(source: Mapping[str, Any]) -> State:
  """Returns a state dict's arrays as entries."""
  return {
    key: Entry((key,), np.shape(value), np.asarray(value))
    for key, value in source.items()
  }


def values(state: Mapping[str, Entry]) -> dict[str, Array]:
  """Returns the arrays of all entries that go somewhere."""
  return {key: entry.value for key, entry in state.items() if not entry.unused}


def joined(parts: Iterable[Entry], value: Array, change: str) -> Entry:
  """Returns one entry made of several."""
  parts = list(parts)
  return Entry(
    tuple(key for part in parts for key in part.keys),
    parts[0].shape,
    value,
    (*parts[0].changes, change),
  )
