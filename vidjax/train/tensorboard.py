"""The numbers of a run as TensorBoard's event files."""

import pathlib
import time
from typing import Any

from tensorboardX import summary as tb_summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made by protobuf at import
  Event,  # pyright: ignore[reportAttributeAccessIssue]
  SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from vidjax.train.writers import Numbers, explained


class TensorBoard:
  """Event files, written in the calling thread.

  tensorboardX's `SummaryWriter` has a thread that dies of a full disk, and
  whose queue then blocks the training for ever.

  Args:
    workdir: of the run; the files lie in its folder `tensorboard`.

  Raises:
    WriterError: if they cannot be written, as the methods do.
  """

  def __init__(self, workdir: pathlib.Path):
    self._folder = workdir / "tensorboard"
    with explained(self._folder):
      self._folder.mkdir(exist_ok=True)
      self._events = EventsWriter(
        # Two writers of one second must not share a file.
        str(self._folder / "events"),
        filename_suffix=f".{time.time_ns()}",
      )

  def write(self, step: int, values: Numbers) -> None:
    """Writes the numbers of a step; those that are not finite are left out."""
    with explained(self._folder):
      for name, value in values.items():
        if value is not None:
          self._add(step, summary=tb_summary.scalar(name, value))
      self._events.flush()

  def truncate_after(self, step: int) -> None:
    """Tells TensorBoard that a session begins, which hides later events."""
    with explained(self._folder):
      self._add(step + 1, session_log=SessionLog(status=SessionLog.START))

  def close(self) -> None:
    """Closes the files."""
    with explained(self._folder):
      self._events.close()

  def _add(self, step: int, **content: Any) -> None:
    self._events.write_event(Event(step=step, wall_time=time.time(), **content))
