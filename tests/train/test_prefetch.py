import itertools
import threading
import time

import jax
import numpy as np
import pytest

from vidjax.train.prefetch import DevicePrefetch
from vidjax.train.sharding import batch_sharding, make_mesh

MESH = make_mesh()
SHAPE = (2, 3, 1, 1, 1)


def batches(numbers, delay=0.0):
  for i in numbers:
    time.sleep(delay)
    yield {"video": np.full(SHAPE, i, np.uint8), "label": np.array([i, -i])}


def running() -> bool:
  return any(t.name == "device-prefetch" for t in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_every_batch_comes_once_in_order_on_the_device(depth):
  with DevicePrefetch(batches(range(20)), MESH, depth) as prefetch:
    for i, batch in enumerate(prefetch):
      assert batch["label"].sharding == batch_sharding(MESH)
      assert batch["video"].dtype == np.uint8
      np.testing.assert_array_equal(batch["video"], np.full(SHAPE, i))
      np.testing.assert_array_equal(batch["label"], [i, -i])
  assert i == 19
  assert not running()


def test_the_end_repeats():
  with DevicePrefetch(batches(range(1)), MESH, depth=1) as prefetch:
    assert isinstance(next(prefetch)["video"], jax.Array)
    for _ in range(3):
      with pytest.raises(StopIteration):
        next(prefetch)


def test_an_exception_comes_after_the_good_batches_and_repeats():
  def source():
    yield from batches(range(2))
    raise OSError("disk on fire")

  with DevicePrefetch(source(), MESH) as prefetch:
    assert [int(next(prefetch)["label"][0]) for _ in range(2)] == [0, 1]
    for _ in range(3):
      with pytest.raises(OSError, match="disk on fire"):
        next(prefetch)
  assert not running()


def test_a_batch_that_does_not_fit_the_devices_is_an_exception():
  with (
    DevicePrefetch(iter([{"video": "text"}]), MESH) as prefetch,  # pyright: ignore[reportArgumentType]
    pytest.raises(Exception, match=r"str|text"),
  ):
    next(prefetch)


@pytest.mark.parametrize("consumed", [0, 5])
def test_leaving_stops_the_thread_of_an_endless_source(consumed):
  made = itertools.count()
  with DevicePrefetch(batches(made), MESH) as prefetch:
    assert running()
    for _ in range(consumed):
      next(prefetch)
  assert not running()
  here = next(made)
  time.sleep(0.02)
  assert next(made) == here + 1  # nobody else counts
  assert here < consumed + 8  # no more than it may keep ready, and a few


def test_leaving_by_an_exception_stops_the_thread():
  with (
    pytest.raises(KeyError, match="mine"),
    DevicePrefetch(batches(itertools.count()), MESH),
  ):
    raise KeyError("mine")
  assert not running()


def test_outside_of_its_context_there_are_no_batches():
  prefetch = DevicePrefetch(batches(range(3)), MESH)
  with pytest.raises(RuntimeError, match="inside of the `with` block"):
    next(prefetch)
  with prefetch:
    next(prefetch)
  with pytest.raises(RuntimeError, match="inside of the `with` block"):
    next(prefetch)


def test_a_slow_source_is_waited_for():
  delay = 0.05
  with DevicePrefetch(batches(range(4), delay), MESH) as prefetch:
    waited = [prefetch.waited]
    for _ in prefetch:
      waited.append(prefetch.waited)
  assert waited[0] == 0
  steps = np.diff(waited)
  assert (steps > delay / 2).all(), steps


def test_a_slow_consumer_does_not_wait():
  with DevicePrefetch(batches(range(6)), MESH, depth=2) as prefetch:
    next(prefetch)
    before = prefetch.waited
    for _ in range(4):
      time.sleep(0.05)
      next(prefetch)
  assert prefetch.waited - before < 0.05
