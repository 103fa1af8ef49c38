import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from tests.data.small_videos import write_video
from vidjax.data import guard
from vidjax.data.guard import InspectorError, Job, inspect_all
from vidjax.data.inspection import inspect_video

fifos = pytest.mark.skipif(
  not hasattr(os, "mkfifo"), reason="the system has no named pipes"
)


def statuses(jobs, **options):
  options = {"workers": 1, "timeout": 60.0, **options}
  return {
    os.path.basename(job.path): found.status
    for job, found in inspect_all(jobs, **options)
  }


def children():
  return psutil.Process().children(recursive=True)


def test_results_are_those_of_one_process(tmp_path):
  paths = [str(write_video(tmp_path / f"{i}.mp4", i)) for i in range(1, 6)]
  paths.append(str(tmp_path / "gone.mp4"))
  jobs = [Job(path, "full", path == paths[1]) for path in paths]
  got = dict(inspect_all(jobs, workers=2))
  assert got == {
    job: inspect_video(job.path, thumbnail=job.thumbnail) for job in jobs
  }
  assert got[jobs[1]].thumbnail
  assert not children()


@fifos
def test_a_file_that_hangs(tmp_path):
  """Nobody writes into this pipe, so opening it never ends."""
  os.mkfifo(tmp_path / "hangs.mp4")
  path = write_video(tmp_path / "good.mp4")
  jobs = [Job(str(tmp_path / "hangs.mp4")), Job(str(path))]
  began = time.monotonic()
  assert statuses(jobs, timeout=3.0) == {
    "hangs.mp4": "timeout",
    "good.mp4": "ok",
  }
  assert time.monotonic() - began < 40
  assert not children()


@fifos
def test_a_file_that_takes_the_process_down(tmp_path):
  os.mkfifo(tmp_path / "kills.mp4")
  path = write_video(tmp_path / "good.mp4")
  jobs = [Job(str(tmp_path / "kills.mp4")), Job(str(path))]

  def kill():
    # Opening the other end waits for the child to be there.
    with open(tmp_path / "kills.mp4", "wb"):
      os.kill(children()[0].pid, signal.SIGSEGV)

  thread = threading.Thread(target=kill, daemon=True)
  thread.start()
  assert statuses(jobs) == {"kills.mp4": "crashed", "good.mp4": "ok"}
  thread.join(30)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is not limited")
def test_a_file_that_needs_too_much_memory(tmp_path):
  big = write_video(tmp_path / "big.mp4", 1, height=3240, width=5760)
  small = write_video(tmp_path / "small.mp4")
  jobs = [Job(str(big)), Job(str(small))]
  assert statuses(jobs, memory=48) == {"big.mp4": "memory", "small.mp4": "ok"}


def test_closing_early_ends_the_processes(tmp_path):
  path = str(write_video(tmp_path / "a.mp4", 40))
  results = inspect_all([Job(path)] * 50, workers=2)
  next(results)
  results.close()
  assert not children()
  assert threading.active_count() < 5


@fifos
def test_a_killed_parent_leaves_nothing(tmp_path):
  os.mkfifo(tmp_path / "hangs.mp4")
  code = (
    "from vidjax.data.guard import Job, inspect_all; "
    f"list(inspect_all([Job({str(tmp_path / 'hangs.mp4')!r})], workers=1))"
  )
  process = subprocess.Popen([sys.executable, "-c", code])
  deadline = time.monotonic() + 60
  while not (found := children()[1:]) and time.monotonic() < deadline:
    time.sleep(0.05)
  time.sleep(0.5)
  process.kill()
  process.wait()
  _, alive = psutil.wait_procs(found, timeout=30)
  assert found
  assert not alive


def test_no_jobs():
  assert list(inspect_all([], workers=2)) == []


def test_processes_that_do_not_start(tmp_path, monkeypatch):
  monkeypatch.setattr(guard, "__name__", "vidjax.data.no_such_module")
  with pytest.raises(InspectorError, match=r"no_such_module.*installation"):
    list(inspect_all([Job(str(tmp_path))], workers=2))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"workers": 0}, "workers is 0; use 1 or more"),
    ({"memory": 0}, "memory is 0; use 1 or more"),
    ({"timeout": 0.0}, "timeout is 0.0; use more than 0 seconds"),
  ],
)
def test_wrong_limits(options, message):
  with pytest.raises(ValueError, match=message):
    statuses([Job("x")], **options)


def test_fuzzed_files_end_as_verdicts(tmp_path, shared):
  """Mutated bytes of real files: no crash, no hang, nothing left behind."""
  rng = np.random.default_rng(0)
  names = ["odd_size.mp4", "vp9.webm", "one_frame.mp4", "variable_rate.mp4"]
  sources = [(shared / "videos" / name).read_bytes() for name in names]
  for number in range(40):
    data = bytearray(sources[number % len(sources)])
    for at in rng.integers(len(data), size=rng.integers(1, 40)):
      data[at] = rng.integers(256)
    (tmp_path / f"{number}.mp4").write_bytes(data)
  jobs = [Job(str(path)) for path in sorted(tmp_path.iterdir())]
  got = statuses(jobs, workers=2, timeout=30.0, memory=1024)
  assert len(got) == len(jobs)
  assert set(got.values()) >= {"ok", "corrupt"}
  assert "timeout" not in got.values()
