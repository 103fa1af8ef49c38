import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from vidjax.train.preempt import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_flag(number):
  with StopSignal() as stop:
    assert not stop.requested
    assert not stop.should_stop(1)
    signal.raise_signal(number)
    assert stop.requested
    assert stop.should_stop(2)


@pytest.mark.parametrize("signals", [0, 1])
def test_former_handlers_come_back(signals):
  received = []
  former = signal.signal(signal.SIGTERM, lambda *_: received.append("mine"))
  try:
    with StopSignal():
      for _ in range(signals):
        signal.raise_signal(signal.SIGTERM)
    assert received == []
    signal.raise_signal(signal.SIGTERM)
    assert received == ["mine"]
  finally:
    signal.signal(signal.SIGTERM, former)


def test_the_second_signal_has_its_usual_effect():
  # A shell's background jobs, CI's for instance, start with SIGINT ignored.
  former = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with StopSignal() as stop:
      signal.raise_signal(signal.SIGINT)
      with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
      assert stop.requested
  finally:
    signal.signal(signal.SIGINT, former)


def test_outside_of_the_main_thread_nothing_is_installed():
  handlers = []

  def work():
    with StopSignal() as stop:
      handlers.append(signal.getsignal(signal.SIGTERM))
      assert not stop.should_stop(1)

  thread = threading.Thread(target=work)
  before = signal.getsignal(signal.SIGTERM)
  thread.start()
  thread.join()
  assert handlers == [before]


WORKER = """
import sys, time
import jax
port, index = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(index))
from jax.experimental.multihost_utils import sync_global_devices
from vidjax.train.preempt import StopSignal
with StopSignal() as stop:
  for step in range(1, 600):
    sync_global_devices("step")  # as the gradients of a train step
    time.sleep(0.05 if index == "0" else 0.01)
    if step == 1:
      print("ready", flush=True)
    if stop.should_stop(step):
      print(step, flush=True)
      break
jax.distributed.shutdown()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_processes_of_a_job_stop_at_the_same_step(number):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  workers = [
    subprocess.Popen(
      [sys.executable, "-c", WORKER, port, str(i)],
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  try:
    for worker in workers:
      while (line := worker.stdout.readline()) != "ready\n":
        assert line, worker.stderr.read()  # others are Gloo's
    workers[1].send_signal(number)
    ends = [worker.communicate(timeout=60) for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
      worker.wait()
  assert [worker.returncode for worker in workers] == [0, 0], ends
  steps = {out.split()[-1] for out, _ in ends}
  assert len(steps) == 1, ends
  assert steps != {"ready"}
