"""Epochs that are kept apart, as in a PyTorch loop with accumulation."""

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
  places of the rest. Examples are given their places when every draw was made,
  so what they show does not depend on the number of hosts.

  Args:
    examples: of one epoch, a multiple of `micro_batch`.
    batch_size: examples of a batch, over all hosts.
    micro_batch: examples of a micro-batch, over all hosts.
    hosts: number of hosts; host h has the places h, h + hosts, ... of a batch.
    nothing: makes an example of weight 0.
  """

  def __init__(
    self,
    examples: grain.MapDataset,
    batch_size: int,
    micro_batch: int,
    hosts: int,
    nothing: Callable[[], Any],
  ):
    super().__init__(examples)
    self._examples = examples
    self._batch_size = batch_size
    self._micro_batch = micro_batch
    self._hosts = hosts
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
    row, host = divmod(place, self._hosts)
    row, number = divmod(row, count)
    if number >= real:
      return self._nothing()
    within = (row * real + number) * self._hosts + host
    return self._examples[epoch * len(self._examples) + first + within]
