"""The order of examples: epochs that are kept apart, and a host's part."""

from collections.abc import Callable
from typing import Any

import grain

from vidjax.data.manifest import Manifest


def whole_micro_batches(manifest: Manifest, micro_batch: int) -> int:
  """Returns the number of clips in the whole micro-batches of an epoch.

  Args:
    manifest: the split.
    micro_batch: clips of a micro-batch, over all hosts.

  Raises:
    ValueError: if the split has not enough clips for one.
  """
  clips = len(manifest.clips)
  if clips < micro_batch:
    raise ValueError(
      f"split {manifest.split!r} has {clips} clips, fewer than the "
      f"{micro_batch} of a micro-batch: lower data.batch_size or raise "
      "train.accumulate."
    )
  return clips - clips % micro_batch


class Epochs(grain.MapDataset):
  """Examples of one epoch in batches, the last of them filled up.

  The last batch has fewer micro-batches than the others, and nothing in the
  places of the rest.

  Args:
    examples: of one epoch, a multiple of `micro_batch`.
    batch_size: examples of a batch.
    micro_batch: examples of a micro-batch.
    nothing: makes an example of weight 0.
  """

  def __init__(
    self,
    examples: grain.MapDataset,
    batch_size: int,
    micro_batch: int,
    nothing: Callable[[], Any],
  ):
    super().__init__(examples)
    self._examples = examples
    self._batch_size = batch_size
    self._micro_batch = micro_batch
    self._nothing = nothing
    self._length = -(-len(examples) // batch_size) * batch_size

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    epoch, place = divmod(index, self._length)
    batch, place = divmod(place, self._batch_size)
    first = batch * self._batch_size
    count = self._batch_size // self._micro_batch
    real = min((len(self._examples) - first) // self._micro_batch, count)
    row, number = divmod(place, count)
    if number >= real:
      return self._nothing()
    within = row * real + number
    return self._examples[epoch * len(self._examples) + first + within]


class Part(grain.MapDataset):
  """The rows of every batch that one of several hosts loads.

  They follow one another, as those of a device do, so that the batch that all
  hosts put together is the same for any number of them.

  Args:
    examples: of all hosts.
    batch_size: examples of a batch, over all hosts.
    host: which part.
    hosts: number of parts, a divisor of the batch.
  """

  def __init__(
    self, examples: grain.MapDataset, batch_size: int, host: int, hosts: int
  ):
    super().__init__(examples)
    self._examples = examples
    self._batch_size = batch_size
    self._rows = batch_size // hosts
    self._first = host * self._rows
    self._length = len(examples) // hosts

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return self.slice(index)
    batch, row = divmod(index, self._rows)
    return self._examples[batch * self._batch_size + self._first + row]
