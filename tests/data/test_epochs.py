import numpy as np
import pytest

from tests.data.test_pipeline import (
  RANDOM,
  assert_same,
  config,
  take,
  write_data,
)
from vidjax.data.pipeline import steps_per_epoch, train_batches


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp("data"))


# 10 videos: five micro-batches of 2 an epoch, in steps of 3 and of 2.
GROUPS = {"batch_size": 6}
WHOLE = [(0, 6), (6, 4), (10, 6), (16, 4), (20, 6), (26, 4)]


def test_epochs_end_with_fewer_micro_batches(manifest):
  c = config(**GROUPS, **RANDOM)
  got = take(train_batches(manifest, c, seed=3, micro_batch=2), 6)
  # What a stream of single micro-batches of these epochs would hold.
  c = config(batch_size=2, **RANDOM)
  plain = take(train_batches(manifest, c, seed=3), 15)
  rows = {k: np.concatenate([b[k] for b in plain]) for k in plain[0]}
  for batch, (first, count) in zip(got, WHOLE, strict=True):
    m, real = 3, count // 2
    for place in range(6):
      row, number = divmod(place, m)
      if number < real:
        source = first + row * real + number
        for key, value in batch.items():
          np.testing.assert_array_equal(value[place], rows[key][source])
        assert batch["weight"][place] == 1
      else:
        assert not any(value[place].any() for value in batch.values())
  epochs = [
    np.concatenate([b["label"][b["weight"] > 0] for b in got[k : k + 2]])
    for k in (0, 2, 4)
  ]
  for epoch in epochs:
    # A label below 4 may be that of its mirror image.
    assert sorted(epoch // 2) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
  assert len({tuple(epoch) for epoch in epochs}) == 3


def test_clips_beyond_the_last_micro_batch_are_left_out(manifest):
  c = config(batch_size=8)  # two micro-batches of 4, and 2 of 10 videos
  got = take(train_batches(manifest, c, seed=3, micro_batch=4), 8)
  left_out = set()
  for batch in got:
    assert (batch["weight"] == 1).all()
    assert len(set(batch["label"])) == 8
    left_out |= set(range(10)) - set(batch["label"])
  assert len(left_out) > 2  # others in each epoch


@pytest.mark.parametrize("start", [1, 2, 5])
def test_resume_of_whole_epochs_is_exact(manifest, start):
  c = config(**GROUPS, **RANDOM)
  want = take(train_batches(manifest, c, seed=3, micro_batch=2), 7)
  rest = train_batches(manifest, c, seed=3, micro_batch=2, start_step=start)
  assert_same(take(rest, 7 - start), want[start:])


def test_hosts_share_every_micro_batch(manifest):
  """The same examples in the same step, whatever number of hosts."""
  c = config(batch_size=12, **RANDOM)  # micro-batches of 4: 2 of 3 places
  whole = take(train_batches(manifest, c, seed=3, micro_batch=4), 3)
  parts = [
    take(train_batches(manifest, c, seed=3, micro_batch=4, host=h, hosts=2), 3)
    for h in range(2)
  ]
  for step, want in enumerate(whole):
    for part in parts:
      weight = part[step]["weight"].reshape(2, 3)
      np.testing.assert_array_equal(weight, [[1, 1, 0]] * 2)
    for key, value in want.items():
      got = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(got, value)


def test_an_epoch_needs_a_micro_batch(manifest):
  message = "'train' has 10 clips, fewer than the 11 of a micro-batch: lower"
  with pytest.raises(ValueError, match=message):
    steps_per_epoch(manifest, 22, 11)
  with pytest.raises(ValueError, match=message):
    train_batches(manifest, config(batch_size=22), seed=0, micro_batch=11)


@pytest.mark.parametrize(
  ("batch_size", "micro_batch", "steps"),
  [(6, 2, 2), (4, 2, 3), (6, 3, 2), (8, 4, 1), (4, 4, 2), (100, 10, 1)],
)
def test_steps_of_whole_epochs(manifest, batch_size, micro_batch, steps):
  assert steps_per_epoch(manifest, batch_size, micro_batch) == steps
