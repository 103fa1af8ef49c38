"""Batches on their way to the device, a few ahead of their step."""

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vidjax.train.distributed import batch_part, progressed
from vidjax.train.sharding import input_sharding

Batch = dict[str, jax.Array]


class DevicePrefetch:
  """Iterates over device batches that a thread puts there ahead of time.

  Each process gives its part of the global batch, see
  `vidjax.train.distributed.batch_part`. Use it as a context manager: entering
  it starts the thread, leaving it stops it.

  Args:
    batches: host batches, dictionaries of arrays with the batch axis first.
    mesh: over which they are spread (`vidjax.train.sharding.input_sharding`).
    depth: batches kept ready.

  Attributes:
    waited: seconds that `next` has spent waiting for data so far.
  """

  def __init__(
    self,
    batches: Iterator[Mapping[str, np.ndarray]],
    mesh: Mesh,
    depth: int = 2,
  ):
    self.waited = 0.0
    self._batches = batches
    self._mesh = mesh
    self._parts = batch_part(mesh)[1]
    self._ready: queue.Queue[Any] = queue.Queue(depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._fill, name="device-prefetch", daemon=True
    )

  def __enter__(self) -> "DevicePrefetch":
    self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._stop.set()
    while self._thread.is_alive():
      with contextlib.suppress(queue.Empty):
        self._ready.get(timeout=0.05)  # makes room for a put that waits

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    if self._thread.ident is None or self._stop.is_set():
      raise RuntimeError(
        "batches of a DevicePrefetch were asked for outside of its context; "
        "take them inside of the `with` block"
      )
    progressed()
    start = time.perf_counter()
    item = self._ready.get()
    self.waited += time.perf_counter() - start
    if isinstance(item, Exception):
      self._ready.put(item)  # every later call ends the same way
      raise item
    return item

  def _fill(self) -> None:
    try:
      for batch in self._batches:
        self._ready.put({k: self._placed(k, v) for k, v in batch.items()})
        if self._stop.is_set():
          return
      self._ready.put(StopIteration())
    except Exception as error:  # handed over to the caller of `next`
      self._ready.put(error)

  def _placed(self, name: str, array: np.ndarray) -> jax.Array:
    rows, *rest = array.shape
    shape = (rows * self._parts, *rest)
    # The shape is said, because a process has all frames of its clips, but its
    # devices perhaps not.
    return jax.make_array_from_process_local_data(
      input_sharding(name, shape, self._mesh), array, shape
    )
