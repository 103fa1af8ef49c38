r"""A web page to try a model: drop a video, see what the model says of it.

    python -m vidjax.tools.demo_app --checkpoint=runs/demo
    python -m vidjax.tools.demo_app --checkpoint=runs/demo --host=0.0.0.0 \
        --port=8000 --window=3 --max-mb=50

It shows the best classes, a timeline of longer videos and the video with the
classes drawn on it. Several people may use it: their videos queue. Nothing is
loaded from elsewhere. Videos lie in a temporary folder that goes with the
server. Needs the extra `app`: `pip install 'vidjax[app]'`.
"""

import argparse
import contextlib
import functools
import ipaddress
import os
import pathlib
import signal
import socket
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from vidjax.checks import at_least
from vidjax.data.motion import CLASSES, write_motion_clips
from vidjax.explain.clip import as_input, read_clip
from vidjax.prediction.predictor import Predictor, check_windows
from vidjax.prediction.results import Prediction
from vidjax.prediction.trained import Trained, load_trained
from vidjax.tools.demo_jobs import THREAD, Jobs
from vidjax.tools.explain import Asked
from vidjax.tools.explain import explain as draw

if TYPE_CHECKING:
  import uvicorn
  from starlette.applications import Starlette

_SHUTDOWN_SECONDS = 2


class Saliency:
  """Writes films of what a prediction depends on; the model comes at first use.

  Args:
    checkpoint: see `vidjax.Predictor`.
  """

  def __init__(self, checkpoint: str):
    self._checkpoint = checkpoint

  @functools.cached_property
  def _trained(self) -> Trained:
    return load_trained(self._checkpoint)

  def __call__(self, found: Prediction, out: pathlib.Path) -> None:
    """Writes the film `out` of the best class of a prediction.

    Raises:
      VideoError: if the video is bad.
      ValueError: if the film cannot be encoded.
      OSError: if it cannot be written.
    """
    label = found.top(1)[0].label
    options = argparse.Namespace(method="saliency", label=label, out=out)
    clip = read_clip(found.path, self._trained)
    draw(Asked(self._trained, clip, as_input(clip, self._trained), options))


def make_samples(
  labels: tuple[str, ...], folder: pathlib.Path
) -> dict[str, pathlib.Path]:
  """Makes a motion clip of each class, if the model's classes are motions.

  Args:
    labels: of the model.
    folder: where to make them.

  Returns:
    Files by class; none for other models.
  """
  if not set(labels) <= set(CLASSES):
    return {}
  write_motion_clips(folder, train_clips=1, val_clips=len(CLASSES))
  found = {}
  for path in sorted((folder / "val").rglob("*.mp4")):
    if path.parent.name in labels:
      found[path.parent.name] = path
  return {name: found[name] for name in CLASSES if name in found}


def make_server(app: "Starlette") -> "uvicorn.Server":
  """Returns a server that says nothing but errors and ends within seconds."""
  import uvicorn

  config = uvicorn.Config(
    app,
    http="h11",
    ws="none",
    loop="asyncio",
    lifespan="off",
    log_level="error",
    timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
  )
  return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
  """Opens the port.

  Args:
    host: address or name of this machine.
    port: 0 takes a free one.

  Raises:
    OSError: if it is taken, or the address is not of this machine.
  """
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family)
  except (OSError, OverflowError) as error:
    raise OSError(
      f"port {port} of {host} cannot be opened ({error}): choose another with "
      "--port, or another --host"
    ) from error


def is_private(host: str) -> bool:
  """Whether an address can be reached from this machine only."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.tools.demo_app",
    description="A web page to try a model.",
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="run, pretrained folder, owner/name")
  add("--host", default="127.0.0.1", help="0.0.0.0 for others, too")
  add("--port", type=int, default=7860, help="0 takes a free one; %(default)s")
  add("--window", type=float, default=2.0, help="seconds; %(default)s")
  add("--max-mb", type=int, default=200, help="size of videos; %(default)s")
  add("--keep-minutes", type=float, default=60, help="results; %(default)s")
  add("--clips", type=int, help="of each video; else as in evaluation")
  add("--crops", type=int, choices=(1, 3), help="of each clip; likewise")
  add("--dtype", choices=("float32", "bfloat16"), help="to compute in")
  return parser


def _run(options: argparse.Namespace) -> None:
  """Serves until it is interrupted."""
  try:
    from vidjax.tools.demo_server import Facts, make_app
  except ImportError as error:
    raise ImportError(
      f"the page needs the package {error.name}: pip install 'vidjax[app]'"
    ) from error
  at_least(1, **{"--max-mb": options.max_mb})
  check_windows(options.window or None, None)
  predictor = Predictor(
    options.checkpoint,
    clips=options.clips,
    crops=options.crops,
    dtype=options.dtype,
  )
  facts = Facts(
    _description(predictor, options.checkpoint),
    len(predictor.labels),
    predictor.views,
    options.window,
    options.max_mb,
    options.keep_minutes,
  )
  with (
    listen(options.host, options.port) as port,
    tempfile.TemporaryDirectory(
      prefix="vidjax-demo-", ignore_cleanup_errors=True
    ) as text,
  ):
    folder = pathlib.Path(text)
    samples = make_samples(predictor.labels, folder / "samples")
    (folder / "jobs").mkdir()
    with Jobs(
      predictor,
      folder / "jobs",
      explain=Saliency(options.checkpoint),
      keep_seconds=60 * options.keep_minutes,
    ) as jobs:
      _announce(options.host, port.getsockname()[1])
      make_server(make_app(jobs, facts, samples)).run(sockets=[port])


def _description(predictor: Predictor, checkpoint: str) -> str:
  """Model and origin; where folders lie is nothing for visitors."""
  path = pathlib.Path(checkpoint)
  origin = path.resolve().name if path.is_dir() else checkpoint
  return f"{predictor.description.split(',')[0]}, {origin}"


def _announce(host: str, port: int) -> None:
  shown = f"[{host}]" if ":" in host else host
  print(f"open http://{shown}:{port} (Ctrl-C ends)", flush=True)
  if not is_private(host):
    print(
      f"warning: anyone who reaches {shown}:{port} over the network may use "
      "this page; use --host=127.0.0.1 to keep it to this machine",
      file=sys.stderr,
      flush=True,
    )


def _interrupt(number: int, frame: Any) -> None:
  raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  options = _parser().parse_args(arguments)
  # Else the temporary folder would stay.
  former = signal.signal(signal.SIGTERM, _interrupt)
  try:
    # A shell's background jobs ignore Ctrl-C, and then it is not raised here.
    with contextlib.suppress(KeyboardInterrupt):
      _run(options)
    if THREAD in {thread.name for thread in threading.enumerate()}:
      # What JAX computes there cannot be stopped, and the interpreter would
      # abort at its end.
      os._exit(0)
  except (ValueError, ImportError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  finally:
    signal.signal(signal.SIGTERM, former)
  return 0


if __name__ == "__main__":
  sys.exit(main())
