"""Inspection of many videos in child processes that may hang, crash or grow.

A child is this module run as a program: it reads one JSON job a line and
answers with one line, or with `.` as a sign of life. What it does to itself is
a verdict on the video that it had, and nothing else.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator

import vidjax
from vidjax.checks import at_least
from vidjax.data.inspection import Inspection, failure, inspect_video

_BEAT_SECONDS = 0.5
_LONGEST = 30  # a video may take so many times the limit while it is alive
_CLOSE = 0.05  # share of the memory that is left when the limit is close
_READY, _ALIVE = "ready\n", ".\n"
# Threads of a library would take their buffers before or after the memory is
# limited, as it happens, and an inspection multiplies no matrices.
_ALONE = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class InspectorError(RuntimeError):
  """The inspecting processes do not start."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
  """One video to inspect.

  Attributes:
    path: see `vidjax.data.clips.open_clip`.
    check: see `vidjax.data.inspection.inspect_video`.
    thumbnail: whether to make a picture.
  """

  path: str
  check: str = "full"
  thumbnail: bool = False


def inspect_all(
  jobs: Iterable[Job],
  *,
  workers: int,
  timeout: float = 120.0,
  memory: int = 4096,
) -> Iterator[tuple[Job, Inspection]]:
  """Inspects videos in parallel; every job comes back, in any order.

  A video whose inspection shows no sign of life for `timeout` seconds, or lasts
  30 times as long, is given up with the status "timeout"; one that takes the
  process down has "crashed", one that needs too much memory "memory".

  Args:
    jobs: the videos.
    workers: processes.
    timeout: seconds.
    memory: MiB that the inspection of a video may take (where the system can
      limit it: Linux).

  Yields:
    A job and what was found.

  Raises:
    InspectorError: if a process cannot even start.
    ValueError: if a limit is not positive.
  """
  at_least(1, workers=workers, memory=memory)
  if timeout <= 0:
    raise ValueError(f"timeout is {timeout}; use more than 0 seconds")
  waiting = list(jobs)
  todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
  for job in [*waiting, *[None] * workers]:
    todo.put(job)
  done: queue.SimpleQueue[tuple[Job, Inspection] | Exception] = (
    queue.SimpleQueue()
  )
  children = [_Child(memory, timeout) for _ in range(workers)]
  threads = [
    threading.Thread(target=_serve, args=(child, todo, done), daemon=True)
    for child in children
  ]
  stop = threading.Event()
  threads.append(
    threading.Thread(target=_watch, args=(children, stop), daemon=True)
  )
  for thread in threads:
    thread.start()
  try:
    for _ in waiting:
      result = done.get()
      if isinstance(result, Exception):
        raise result
      yield result
  finally:
    with contextlib.suppress(queue.Empty):
      while True:
        todo.get_nowait()
    for _ in children:
      todo.put(None)
    stop.set()
    for child in children:
      child.close()
    for thread in threads:
      thread.join()


def _serve(
  child: "_Child",
  todo: "queue.SimpleQueue[Job | None]",
  done: "queue.SimpleQueue[tuple[Job, Inspection] | Exception]",
) -> None:
  while (job := todo.get()) is not None:
    try:
      done.put((job, child.inspect(job)))
    except Exception as error:  # shown by the thread that waits
      done.put(error)
      return


def _watch(children: list["_Child"], stop: threading.Event) -> None:
  while not stop.wait(0.1):
    for child in children:
      child.kill_if_late()


class _Child:
  """A process that inspects one video after the other; restarted if it dies."""

  def __init__(self, memory: int, timeout: float):
    self._memory = memory
    self._timeout = timeout
    self._process: subprocess.Popen[str] | None = None
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    self._deadline = self._end = float("inf")
    self._late = self._closed = False
    self._lock = threading.Lock()

  def inspect(self, job: Job) -> Inspection:
    process = self._process or self._start()
    now = time.monotonic()
    self._late = False
    self._end = now + _LONGEST * self._timeout
    self._deadline = now + self._timeout
    try:
      answer = self._ask(process, json.dumps(dataclasses.asdict(job)))
    finally:
      self._deadline = self._end = float("inf")
    full = False
    if answer:
      found = json.loads(answer)
      full = found.pop("full")
      for name in ("notes", "keyframes"):
        found[name] = tuple(found[name])
      result = Inspection(**found)
    else:
      result = failure("timeout" if self._late else "crashed", job.path)
    if not answer or full:
      self._stop()
    return result

  def kill_if_late(self) -> None:
    with self._lock:
      if time.monotonic() > min(self._deadline, self._end):
        self._late = True
        self._deadline = self._end = float("inf")
        if self._process is not None:
          self._process.kill()

  def close(self) -> None:
    with self._lock:
      self._closed = True
      if self._process is not None:
        self._process.kill()
    self._stop()
    self._errors.close()

  def _ask(self, process: subprocess.Popen[str], line: str) -> str:
    """Returns the answer; an empty one if the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
      process.stdin.write(line + "\n")
      process.stdin.flush()
    except OSError:
      return ""
    while (answer := process.stdout.readline()) == _ALIVE:
      self._deadline = time.monotonic() + self._timeout
    return answer if answer.endswith("\n") else ""

  def _start(self) -> subprocess.Popen[str]:
    root = str(pathlib.Path(vidjax.__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    with self._lock:
      if self._closed:
        raise InspectorError("the inspection was stopped.")
      process = self._process = subprocess.Popen(
        [sys.executable, "-m", __name__, f"--memory={self._memory}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._errors,
        text=True,
        env={**os.environ, **_ALONE, "PYTHONPATH": os.pathsep.join(paths)},
      )
    assert process.stdout is not None
    if process.stdout.readline() != _READY:
      status = f"exit status {process.wait()}"
      self._errors.seek(0)
      lines = self._errors.read().strip().splitlines() or [status]
      raise InspectorError(
        f"a process that inspects videos does not start ({lines[-1]}): check "
        "the installation, or allow more memory."
      )
    return process

  def _stop(self) -> None:
    with self._lock:
      process, self._process = self._process, None
    if process is not None:
      process.kill()
      process.wait()
      for pipe in (process.stdin, process.stdout):
        if pipe is not None:
          with contextlib.suppress(OSError):
            pipe.close()


def _limit_memory(memory: int) -> float:
  """Limits the address space to what is taken now and `memory` MiB more.

  Returns:
    Bytes above which the limit is close.
  """
  try:
    import resource

    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  except (ImportError, OSError):
    return float("inf")  # not Linux
  limit = pages * resource.getpagesize() + memory * 2**20
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  return limit - max(_CLOSE * memory, 32.0) * 2**20


def _largest() -> float:
  """Returns the bytes of the address space when it was largest."""
  try:
    status = pathlib.Path("/proc/self/status").read_text()
  except OSError:
    return 0.0
  return float(status.partition("VmPeak:")[2].split()[0]) * 1024


def _end_with(parent: int) -> None:
  """Ends this process once it has lost its parent, even if a video hangs."""
  while os.getppid() == parent:
    time.sleep(_BEAT_SECONDS)
  os._exit(1)


def main() -> None:
  """Answers the jobs on stdin."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--memory", type=int, required=True)
  close = _limit_memory(parser.parse_args().memory)
  threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
  # What libraries print must not come between the answers.
  out = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  last = time.monotonic()

  def send(line: str) -> None:
    out.write(line)
    out.flush()

  def beat() -> None:
    nonlocal last
    if time.monotonic() - last > _BEAT_SECONDS:
      last = time.monotonic()
      send(_ALIVE)

  send(_READY)
  for line in sys.stdin:
    job = json.loads(line)
    found = inspect_video(**job, beat=beat)
    # Without memory FFmpeg finds fault with the data. The next video shall have
    # all of it again.
    full = _largest() > close
    if full and found.status == "corrupt":
      found = failure("memory", job["path"])
    send(json.dumps({**dataclasses.asdict(found), "full": full}) + "\n")


if __name__ == "__main__":
  main()
