"""Notice of a coming end of the process, so that a checkpoint can be saved."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from vidjax.train.distributed import agreed_stop

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
  """Turns the first SIGTERM or SIGINT into a flag, as a context manager.

  A second signal does what it would do without this class, so a process that
  hangs can still be stopped. Former handlers come back at the exit.

  In a job of `jax.distributed` all processes stop after the same step,
  whichever of them got the signal. Outside of the main thread, where Python
  allows no handler, none is installed.

  Attributes:
    requested: whether a signal has arrived in this process.
  """

  def __init__(self) -> None:
    self.requested = False
    self._former: dict[signal.Signals, Any] = {}

  def __enter__(self) -> "StopSignal":
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        former = signal.signal(number, self._handle)
        # None: a handler that was not installed by Python.
        self._former[number] = signal.SIG_DFL if former is None else former
    return self

  def __exit__(self, *exception: object) -> None:
    self._restore()

  def should_stop(self, step: int) -> bool:
    """Returns whether to save and stop after this step.

    Has to be called after every step; in a job by all processes with the same
    step, and all get the same answer (`agreed_stop`).
    """
    if jax.distributed.is_initialized():
      return agreed_stop(step, self.requested)
    return self.requested

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.requested = True
    self._restore()
    name = signal.Signals(number).name
    # Not the log: its handlers may be what the signal has interrupted.
    os.write(2, f"{name}: saving and stopping; repeat to stop now\n".encode())

  def _restore(self) -> None:
    while self._former:
      number, handler = self._former.popitem()
      signal.signal(number, handler)
