"""Annotation formats by name, all read into one `Listing`."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from vidjax.checks import one_of
from vidjax.data.formats.base import (
  Entry,
  FormatError,
  Listing,
  Request,
  duplicates_apart,
)
from vidjax.data.formats.diving48 import read_diving48
from vidjax.data.formats.epic100 import read_epic100
from vidjax.data.formats.folds import read_hmdb51, read_ucf101
from vidjax.data.formats.kinetics import read_kinetics
from vidjax.data.formats.lists import read_folders, read_frame_list, read_list
from vidjax.data.formats.shards import read_array_record, read_tfds
from vidjax.data.formats.something import read_ssv1, read_ssv2

__all__ = [
  "FORMATS",
  "Entry",
  "FormatError",
  "Listing",
  "Request",
  "mirror_classes",
  "read_listing",
]

# Between underscores as well, so \b will not do.
_DIRECTION = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)

FORMATS: Mapping[str, Callable[[Request], Listing]] = {
  "folders": read_folders,
  "list": read_list,
  "frame_list": read_frame_list,
  "kinetics": read_kinetics,
  "ssv1": read_ssv1,
  "ssv2": read_ssv2,
  "diving48": read_diving48,
  "epic100": read_epic100,
  "ucf101": read_ucf101,
  "hmdb51": read_hmdb51,
  "tfds": read_tfds,
  "array_record": read_array_record,
}


def read_listing(name: str, request: Request) -> Listing:
  """Reads annotations; what is listed twice counts once.

  Args:
    name: of the format, a key of `FORMATS`.
    request: what to read.

  Raises:
    FormatError: if the annotations are missing or wrong.
    ValueError: if there is no such format.
  """
  one_of("the format", name, FORMATS)
  if not request.source.exists():
    raise FormatError(
      f"{request.source} does not exist: name the file or folder of the "
      "annotations."
    )
  listing = FORMATS[name](request)
  return dataclasses.replace(
    listing,
    splits={
      split: duplicates_apart(entries)
      for split, entries in listing.splits.items()
    },
  )


def mirror_classes(classes: Sequence[str]) -> dict[int, int]:
  """Returns which classes are each other's mirror image, by their names.

  Two classes are if "left" and "right" are exchanged in their names, as in
  "Pulling something from left to right".

  Args:
    classes: names in the order of their numbers.

  Returns:
    The number of the mirrored class by the number of the class.
  """
  numbers = {name: i for i, name in enumerate(classes)}
  swapped = {
    i: numbers.get(_DIRECTION.sub(_swap, name))
    for i, name in enumerate(classes)
  }
  return {i: to for i, to in swapped.items() if to is not None and to != i}


def _swap(match: re.Match[str]) -> str:
  word = match[0]
  other = "right" if word.lower() == "left" else "left"
  return other.capitalize() if word[0].isupper() else other
