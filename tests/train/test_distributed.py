import math
import os
import re
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.train import jobs
from vidjax.train import distributed
from vidjax.train.distributed import (
  JobError,
  LostProcessError,
  Watchdog,
  anywhere,
  batch_part,
  from_first,
  in_turn,
  job,
  launched,
  losses_named,
  part_of_rows,
  progressed,
  rows_by_process,
)
from vidjax.train.sharding import make_mesh

SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[01-04]"}


@pytest.mark.parametrize(
  ("environment", "expected"),
  [
    ({}, None),
    (SLURM, "SLURM_NTASKS"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_NTASKS": "4"}, None),  # a batch script outside of a step
    (SLURM | {"SLURM_NTASKS": "four"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, None),
    (
      {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://h"},
      "OMPI_COMM_WORLD_SIZE",
    ),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, "TPU_WORKER_HOSTNAMES"),
    ({"TPU_WORKER_HOSTNAMES": "t", "MEGASCALE_NUM_SLICES": "2"}, None),
  ],
)
def test_a_launcher_of_several_processes_is_seen(environment, expected):
  found = launched(environment)
  if "MEGASCALE_NUM_SLICES" in environment:
    expected = "MEGASCALE_NUM_SLICES"
  assert found == expected


@pytest.mark.parametrize(
  ("flags", "sentence"),
  [
    ({"coordinator": "h:1"}, "--num_processes and --process_id must be given"),
    ({"process_id": 0}, "--coordinator and --num_processes must be given"),
    (
      {"coordinator": "host", "num_processes": 2, "process_id": 0},
      "--coordinator is 'host'; give HOST:PORT",
    ),
    (
      {"coordinator": "h:1", "num_processes": 2, "process_id": 2},
      "--process_id is 2 of --num_processes=2",
    ),
  ],
)
def test_wrong_flags_are_one_sentence(flags, sentence):
  with pytest.raises(JobError, match=re.escape(sentence)), job(**flags):
    pytest.fail("the job must not start")


def test_without_a_job_a_process_stays_alone(monkeypatch):
  def started(**arguments):
    pytest.fail("nothing asks for a job")

  monkeypatch.setattr(jax.distributed, "initialize", started)
  with pytest.raises(KeyError, match="mine"), job():
    raise KeyError("mine")
  assert in_turn(lambda: 3) == 3
  assert from_first(5) == 5
  assert from_first(None) is None
  assert anywhere(True) == [0]
  assert anywhere(False) == []
  assert batch_part(make_mesh()) == (0, 1)


def test_what_jax_finds_out_is_left_to_jax(monkeypatch):
  given_to_jax = {}

  def initialize(**arguments):
    given_to_jax.update(arguments)
    raise RuntimeError("no such cluster\nand much more")

  monkeypatch.setattr(jax.distributed, "initialize", initialize)
  asynchronous = jax.config.values["jax_cpu_enable_async_dispatch"]
  sentence = r"cannot join the job \(no such cluster\): start all processes"
  try:
    with pytest.raises(JobError, match=sentence), job(detect=True):
      pytest.fail("the job must not start")
  finally:
    jax.config.update("jax_cpu_enable_async_dispatch", asynchronous)
  for name in ("coordinator_address", "num_processes", "process_id"):
    assert given_to_jax[name] is None
  assert given_to_jax["cluster_detection_method"] is None
  assert given_to_jax["heartbeat_timeout_seconds"] == 100


AXES = ("data", "fsdp", "frames", "tensor")
BATCH_AXES = ("data", "fsdp")


@pytest.mark.parametrize(
  ("shape", "devices", "parts"),
  [
    # Each process has rows of its own, or shares them with others.
    ((8, 1, 1, 1), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((2, 4, 1, 1), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((2, 2, 2, 1), 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ((2, 1, 4, 1), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((1, 2, 1, 4), 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ((2, 1, 2, 2), 4, [(0, 2), (1, 2)]),
    ((1, 1, 8, 1), 2, [(0, 1)] * 4),
    ((1, 1, 4, 2), 4, [(0, 1)] * 2),
  ],
)
def test_the_part_follows_from_the_rows_of_the_devices(shape, devices, parts):
  owners = np.arange(math.prod(shape)).reshape(shape) // devices
  rows = rows_by_process(owners, AXES, BATCH_AXES)
  assert [part_of_rows(rows, p) for p in sorted(rows)] == parts


def test_rows_that_overlap_are_all_read_by_all(monkeypatch):
  warnings = []
  monkeypatch.setattr(
    distributed.logging, "warning", lambda text, *a: warnings.append(text % a)
  )
  owners = np.array([[0, 0, 0], [1, 1, 1]]).reshape(3, 2)  # rows x frames
  rows = rows_by_process(owners, ("data", "frames"), ("data",))
  assert rows == {0: {0, 1}, 1: {1, 2}}
  assert part_of_rows(rows, 0) == part_of_rows(rows, 1) == (0, 1)
  assert "reads whole batches" in warnings[0]
  assert "{0: [0, 1], 1: [1, 2]}" in warnings[0]


def test_rows_of_a_process_need_not_be_neighbours():
  rows = rows_by_process(np.array([0, 1, 0, 1]), ("data",), ("data",))
  assert rows == {0: {0, 2}, 1: {1, 3}}
  assert [part_of_rows(rows, p) for p in (0, 1)] == [(0, 2), (1, 2)]


@given(
  st.tuples(*[st.sampled_from([1, 2, 3, 4])] * 4),
  st.permutations(range(4)),
  st.data(),
)
def test_every_device_finds_its_rows_in_the_part_of_its_process(
  shape, order, data
):
  size = math.prod(shape)
  count = data.draw(st.sampled_from([n for n in range(1, 9) if size % n == 0]))
  slowest_first = np.arange(size).reshape(np.array(shape)[list(order)])
  owners = slowest_first.transpose(np.argsort(order)) * count // size
  rows = rows_by_process(owners, AXES, BATCH_AXES)
  parts = {process: part_of_rows(rows, process) for process in rows}
  blocks = shape[0] * shape[1]
  number = {count for _, count in parts.values()}
  assert len(number) == 1  # of parts: all processes agree
  if number == {1}:
    return
  for place, process in np.ndenumerate(owners):
    block = place[0] * shape[1] + place[1]
    same = [p for p in parts if parts[p] == parts[int(process)]]
    assert all(block in rows[p] for p in same)
  held = {parts[p][0]: rows[p] for p in rows}
  assert sorted(held) == list(range(*number))
  assert sorted(b for part in held.values() for b in part) == list(
    range(blocks)
  )


def test_errors_of_collectives_become_a_sentence(monkeypatch):
  gloo = ValueError("UNKNOWN: Gloo all-reduce failed: [pair.cc:1] closed\nmore")

  def fail(error):
    with losses_named():
      raise error

  with pytest.raises(ValueError, match="Gloo"):
    fail(gloo)
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with pytest.raises(LostProcessError, match=r"has ended .*closed\): see") as e:
    fail(gloo)
  assert "\n" not in str(e.value)
  with pytest.raises(ValueError, match="a wrong option"):
    fail(ValueError("a wrong option"))


@pytest.fixture
def ended(monkeypatch):
  """What a watchdog would have ended the process with."""
  statuses = []

  def leave(status):
    statuses.append(status)

  monkeypatch.setattr(distributed, "_leave", leave)
  return statuses


def test_the_watchdog_lets_a_run_go_on_that_gets_on(ended):
  with Watchdog(0.1):
    for _ in range(20):
      time.sleep(0.02)
      progressed()
  with Watchdog(0):
    time.sleep(0.1)
  assert not ended
  assert all(t.name != "watchdog" for t in threading.enumerate())


def test_the_watchdog_ends_a_run_that_hangs_and_says_where(ended, capsys):
  with Watchdog(0.05):
    limit = time.monotonic() + 10
    while not ended and time.monotonic() < limit:
      time.sleep(0.01)
  assert set(ended) == {1}
  said = capsys.readouterr().err
  assert re.search(
    r"^error: process 0 has made no step for 0\.05 s \(it is in \w+\.py:\d+\)",
    said,
  )
  assert "train.stall_seconds" in said


WORKER = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from vidjax.train.distributed import (
  JobError, anywhere, batch_part, from_first, in_turn, job)
from vidjax.train.prefetch import DevicePrefetch
from vidjax.train.sharding import make_mesh

port, index = sys.argv[1], int(sys.argv[2])
label = np.arange(8)
video = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 1, 1, 3)
with job(coordinator=f"localhost:{port}", num_processes=2, process_id=index):
  turns = []
  assert in_turn(lambda: turns.append(index) or index) == index
  assert turns == [index]
  assert from_first(7 + index) == 7
  assert from_first(None if index == 0 else 3) is None
  assert anywhere(index == 1) == [1]
  assert anywhere(False) == []

  def fail():
    assert index == 0, "process 1 must not come here"
    raise OSError("the disk is full")

  try:
    in_turn(fail)
  except (OSError, JobError) as error:
    told = str(error)
  assert told == ["the disk is full", "process 0: the disk is full"][index]

  for shape, expected in (
    ((4, 1, 1, 1), (index, 2)),
    ((2, 1, 2, 1), (index, 2)),
    ((1, 1, 4, 1), (0, 1)),
    ((1, 2, 1, 2), (index, 2)),
  ):
    mesh = make_mesh(*shape)
    part, parts = batch_part(mesh)
    assert (part, parts) == expected, (shape, part, parts)
    mine = {"video": np.split(video, parts)[part],
            "label": np.split(label, parts)[part]}
    with DevicePrefetch(iter([mine]), mesh) as batches:
      batch = next(batches)
    for name, whole in (("video", video), ("label", label)):
      x = batch[name]
      assert x.shape == whole.shape
      for shard in x.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    frames = batch["video"].addressable_shards[0].data.shape[1]
    assert frames == 4 // shape[2]
    everywhere = NamedSharding(mesh, PartitionSpec())
    x = jax.jit(lambda x: x, out_shardings=everywhere)(batch["video"])
    np.testing.assert_array_equal(x, video)
print("done")
"""


@pytest.mark.slow
def test_two_processes_agree_and_make_one_batch(tmp_path):
  port = str(jobs.free_port())
  commands = [["-c", WORKER, port, str(i)] for i in range(2)]
  env = jobs.environment(tmp_path / "cache", devices=2)
  with jobs.started(commands, tmp_path, env) as processes:
    ends = jobs.ends(processes, tmp_path, 120)
  assert [end.status for end in ends] == [0, 0], ends
  assert all(end.out.endswith("done\n") for end in ends)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_peers_do_not_come_ends(number, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "vidjax.main"),
      "--config=configs/xvit_motion.py:smoke",
      f"--workdir={tmp_path}",
      f"--coordinator=localhost:{jobs.free_port()}",
      *("--num_processes=2", f"--process_id={number}", "--start_seconds=3"),
    ],
    cwd=jobs.ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert done.returncode == 1, done.stderr[-2000:]
  sentence = "the processes of the job did not find each other in 3 s: "
  assert f"error: {sentence}" in done.stderr
