r"""Says what videos show.

    python -m vidjax.predict video.mp4 --checkpoint=runs/demo
    python -m vidjax.predict videos/ --checkpoint=runs/demo --json=found.json
    python -m vidjax.predict long.mp4 --checkpoint=runs/demo --window=2 \
        --timeline=long.png --annotate=annotated.mp4

Prints the best classes of each video and their probabilities. A video that
cannot be read is one line on stderr, the others go on, and the exit status is 1
at the end. `vidjax.predict` is the same for one video in Python, and
`vidjax.Predictor` for many.
"""

import argparse
import os
import pathlib
import sys

from vidjax.data.decode import VideoError
from vidjax.prediction.inputs import Input, find_inputs
from vidjax.prediction.outputs import SUFFIXES, Outputs, Writer
from vidjax.prediction.predictor import Failure, Predictor, check_windows
from vidjax.prediction.results import Prediction, check_top
from vidjax.prediction.timeline import clock


def predict(
  path: str | os.PathLike[str],
  checkpoint: str | os.PathLike[str],
  *,
  clips: int | None = None,
  crops: int | None = None,
  window: float | int | None = None,
  stride: float | int | None = None,
  features: bool = False,
  dtype: str | None = None,
) -> Prediction:
  """Says what a video shows.

      vidjax.predict("video.mp4", "runs/demo").top(3)

  The model is loaded for this one call: `vidjax.Predictor` keeps it.

  Args:
    path: of a video file, a folder with an image for each frame, or a record
      (`shard#number`).
    checkpoint: the work directory of a run, a pretrained folder or a repository
      of the Hub.
    clips: of the video; None is what the model's evaluation takes.
    crops: of each clip, 1 or 3; None likewise.
    window: seconds of a window that slides over the video.
    stride: seconds from one window to the next; None is half a window.
    features: whether to keep the backbone's features.
    dtype: "float32" or "bfloat16", to compute in; None is that of the run.

  Raises:
    VideoError: if the video is missing or bad.
    ValueError: if the checkpoint or an option is wrong.
  """
  check_windows(window, stride)
  predictor = Predictor(checkpoint, clips=clips, crops=crops, dtype=dtype)
  return predictor.predict(
    path, window=window, stride=stride, features=features
  )


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.predict", description="Says what videos show."
  )
  add = parser.add_argument
  add("videos", nargs="+", metavar="VIDEO", help="files, folders, records")
  add("--checkpoint", required=True, help="run, pretrained folder, owner/name")
  add("--top", type=int, default=5, help="classes to list (5)")
  add("--clips", type=int, help="of each video; else as in evaluation")
  add("--crops", type=int, choices=(1, 3), help="of each clip; likewise")
  add("--window", type=float, metavar="SECONDS", help="slide over the video")
  add("--stride", type=float, metavar="SECONDS", help="half a window")
  add("--dtype", choices=("float32", "bfloat16"), help="to compute in")
  add("--batch-size", type=int, help="views at once (1 on CPUs, else 8)")
  texts = {
    "json": "all that is found",
    "timeline": "picture of the classes over time (with --window)",
    "annotate": "the video with its best classes drawn",
    "features": "what the backbone makes of each view",
  }
  for name, suffixes in SUFFIXES.items():
    metavar = "|".join(f"OUT{suffix}" for suffix in suffixes)
    add(f"--{name}", type=pathlib.Path, metavar=metavar, help=texts[name])
  return parser


def _run(options: argparse.Namespace) -> int:
  """Predicts all videos; returns how many could not be read."""
  check_windows(options.window, options.stride)
  if options.timeline is not None and options.window is None:
    raise ValueError("--timeline shows windows: give --window=SECONDS too")
  files = {name: getattr(options, name) for name in SUFFIXES}
  outputs = Outputs(**files, top=options.top)
  videos = find_inputs(options.videos)
  predictor = Predictor(
    options.checkpoint,
    clips=options.clips,
    crops=options.crops,
    dtype=options.dtype,
    batch_size=options.batch_size,
  )
  check_top(options.top, max(predictor.head_sizes or (len(predictor.labels),)))
  found = predictor.predict_all(
    [video.path for video in videos],
    window=options.window,
    stride=options.stride,
    features=outputs.features is not None,
    progress=_show_progress if sys.stderr.isatty() else None,
  )
  writer = Writer(
    outputs,
    description=predictor.description,
    labels=predictor.labels,
    several=len(videos) > 1,
  )
  failed = 0
  with writer:
    for number, (video, one) in enumerate(zip(videos, found, strict=True), 1):
      count = f"[{number}/{len(videos)}] "
      try:
        writer.add(video, one)
      except VideoError as error:  # it was to be drawn on, frame by frame
        one = Failure(video.path, error)
        writer.add(video, one)
      if isinstance(one, Failure):
        failed += 1
        print(f"{count}error: {one.error}", file=sys.stderr, flush=True)
      else:
        print(count + _lines(video, one, options.top), flush=True)
  if failed:
    print(
      f"error: {failed} of {len(videos)} videos could not be read",
      file=sys.stderr,
    )
  return failed


def _show_progress(path: pathlib.Path, share: float) -> None:
  """Keeps one line on a terminal, which the next line of text replaces."""
  text = f"{path.name}: {100 * share:.0f} %" if share < 1 else ""
  print(f"\r{text}\033[K\r", end="", file=sys.stderr, flush=True)


def _lines(video: Input, prediction: Prediction, top: int) -> str:
  """The best classes of a video, one a line."""
  length = clock(float(f"{prediction.seconds:.3g}"))
  frames = (
    "1 frame" if prediction.frames == 1 else f"{prediction.frames} frames"
  )
  lines = [f"{video.path} ({frames}, {length})"]
  lines += [
    f"  {100 * guess.probability:5.1f} %  {guess.label}"
    for guess in prediction.top(top)
  ]
  return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  options = _parser().parse_args(arguments)
  try:
    failed = _run(options)
  except (ValueError, ImportError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
