r"""CPU time of a training clip: our decoder beside those of other packages.

    python -m benchmarks.decode [--rounds=5] [--videos=4] [--folder=DIR]

Videos are made with x264: moving textured shapes on a textured ground, noise,
and a cut every 90 frames; 300 frames at 30 a second. A clip is 16 frames, four
apart ("dense") or spread over the video ("uniform"), of which the same random
box is cut and scaled to 224 x 224. All decoders take turns on the same clips in
one thread; what counts is the CPU time of the whole process, of each clip that
of its fastest run.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np

from configs.common import get_config
from vidjax.checks import Config
from vidjax.data.backends import BACKENDS, open_video
from vidjax.data.decode import Video
from vidjax.data.geometry import resized
from vidjax.data.manifest import load_manifest
from vidjax.data.pipeline import train_batches

FRAMES, SIDE = 300, 224
X264 = {"preset": "medium", "crf": "22"}
# name: width, height, options of x264
KINDS: dict[str, tuple[int, int, dict[str, str]]] = {
  "340x256, GOP 250": (340, 256, X264 | {"g": "250"}),
  "340x256, GOP 12": (340, 256, X264 | {"g": "12"}),
  "340x256, as `tools.shard` writes": (
    340,
    256,
    {"preset": "fast", "tune": "fastdecode", "bf": "0", "g": "12", "crf": "25"},
  ),
  "1280x720, GOP 250": (1280, 720, X264 | {"g": "250"}),
}
CLIPS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
  "dense": lambda rng: rng.integers(FRAMES - 61) + 4 * np.arange(16),
  "uniform": lambda rng: (
    (np.arange(16) * FRAMES + rng.integers(FRAMES, size=16)) // 16
  ),
}


def write_video(
  path: pathlib.Path, width: int, height: int, options: dict[str, str], seed=0
) -> None:
  """Makes a video that is as hard to predict as a natural one."""
  rng = np.random.default_rng(seed)
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=30, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for length in [90] * (FRAMES // 90) + [FRAMES % 90]:
      for image in _shot(rng, length, height, width):
        noisy = image + rng.normal(0, 4, image.shape)
        noisy = np.clip(noisy, 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(noisy, format="rgb24")
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _shot(
  rng: np.random.Generator, length: int, height: int, width: int
) -> Iterator[np.ndarray]:
  """Squares that move over a ground that moves."""
  ground = _texture(rng, height + 64, width + 64)
  sides = rng.integers(height // 8, height // 3, 6)
  sprites = [_texture(rng, side, side) for side in sides]
  places = rng.uniform(0, 1, (6, 2)) * (height, width)
  moves = rng.normal(0, height / 100, (6, 2))
  for t in range(length):
    image = ground[t % 64 :][:height, t // 2 % 64 :][:, :width].copy()
    for sprite, place, move in zip(sprites, places, moves, strict=True):
      side = len(sprite)
      y, x = (place + move * t).astype(int) % (height - side, width - side)
      image[y : y + side, x : x + side] = sprite
    yield image


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Coloured noise of several scales."""
  image = np.zeros((height, width, 3))
  for cell, gain in ((32, 60), (8, 25), (2, 8)):
    rows, columns = -(-height // cell), -(-width // cell)
    coarse = rng.normal(0, gain, (rows, columns, 3))
    fine = np.kron(coarse, np.ones((cell, cell, 1)))
    image += fine[:height, :width]
  return image + rng.uniform(80, 170, 3)


def available() -> dict[str, str]:
  """Versions of the decoders that load; says which do not."""
  found = {}
  for name in BACKENDS:
    try:
      open_video("", name)
    except ModuleNotFoundError as error:
      print(error, file=sys.stderr)
    else:
      package = {"planned": "av", "opencv": "cv2"}.get(name, name)
      found[name] = __import__(package).__version__
  if "torchcodec" in found:
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
  return found


def clips(
  paths: list[pathlib.Path], kind: str, sampling: str
) -> list[tuple[pathlib.Path, np.ndarray, Any]]:
  """Three random clips of each video, the same for every decoder."""
  width, height, _ = KINDS[kind]
  rng = np.random.default_rng(0)
  return [
    (
      path,
      CLIPS[sampling](rng),
      resized(rng, height, width, size=SIDE, short=min(height, width)),
    )
    for path in paths
    for _ in range(3)
  ]


def run(backend: str, clip: tuple[pathlib.Path, np.ndarray, Any]) -> np.ndarray:
  """Decodes a clip from a closed file."""
  path, indices, crop = clip
  with open_video(path, backend) as video:
    return video.read(indices, crop)


def cpu(function: Callable[[], Any]) -> float:
  """CPU milliseconds of the process, all of its threads."""
  start = time.process_time()
  function()
  return 1e3 * (time.process_time() - start)


class _Clocked:
  """A codec context whose `decode` is timed."""

  def __init__(self, context: Any):
    self.context, self.seconds = context, 0.0

  def decode(self, packet: Any) -> Any:
    start = time.thread_time()
    frames = self.context.decode(packet)
    self.seconds += time.thread_time() - start
    return frames

  def __getattr__(self, name: str) -> Any:
    return getattr(self.context, name)


def decoder_share(work: list[Any]) -> tuple[float, float]:
  """Parts of our CPU time in FFmpeg's decoder, and in decoder and demuxer."""
  opening = inside = total = 0.0
  for path, indices, crop in work:
    start = time.thread_time()
    with Video(path) as video:
      opening += time.thread_time() - start
      clock = _Clocked(video._context)
      video._context = clock  # pyright: ignore[reportAttributeAccessIssue]
      video.read(indices, crop)
    total += time.thread_time() - start
    inside += clock.seconds
  return inside / total, (opening + inside) / total


def thread_gain(paths: list[pathlib.Path], rounds: int) -> float:
  """Clips per second of the input pipeline, two threads over one.

  By the clock, so it needs two idle cores; of each, the fastest run counts.
  """
  folder = paths[0].parent
  lines = [
    json.dumps({"id": f"{i}", "path": paths[i % len(paths)].name, "label": 0})
    for i in range(64)
  ]
  (folder / "train.jsonl").write_text("\n".join(lines))
  (folder / "labels.json").write_text('{"classes": ["any"]}')
  manifest = load_manifest(folder, "train")
  config: Config = get_config().data
  config.update(crop="resized", stride=4, batch_size=4, prefetch=2)
  best = {1: math.inf, 2: math.inf}
  for _ in range(rounds):
    for threads in best:
      config.threads = threads
      with train_batches(manifest, config, seed=0) as batches:
        next(batches)
        start = time.perf_counter()
        for _ in range(10):
          next(batches)
        best[threads] = min(best[threads], time.perf_counter() - start)
  return best[1] / best[2]


def measure(
  folder: pathlib.Path, names: list[str], *, videos: int, rounds: int
) -> Iterator[dict[str, Any]]:
  """Yields a row for each kind of video and of clip."""
  for number, (kind, (width, height, options)) in enumerate(KINDS.items()):
    paths = [folder / f"{number}-{seed}.mp4" for seed in range(videos)]
    for seed, path in enumerate(paths):
      if not path.exists():
        write_video(path, width, height, options, seed)
    for sampling in CLIPS:
      work = clips(paths, kind, sampling)
      want = run("planned", work[0])
      for name in names:
        if not np.array_equal(run(name, work[0]), want):
          print(f"{name} gives other pixels on {kind}", file=sys.stderr)
      times = {name: [math.inf] * len(work) for name in names}
      for _ in range(rounds):
        for i, clip in enumerate(work):
          for name in names:
            spent = cpu(lambda n=name, c=clip: run(n, c))
            times[name][i] = min(times[name][i], spent)
      mean = {name: statistics.mean(t) for name, t in times.items()}
      others = [ms for name, ms in mean.items() if name != "planned"]
      decoder, demuxer = max(decoder_share(work) for _ in range(rounds))
      yield {
        "video": kind,
        "kB": sum(path.stat().st_size for path in paths) // videos // 1000,
        "clip": sampling,
        "ms": mean,
        "ratio": mean["planned"] / min(others) if others else None,
        "decoder": decoder,
        "demuxer": demuxer,
        "threads": thread_gain(paths, rounds) if sampling == "dense" else None,
      }


def table(rows: Iterator[dict[str, Any]], names: list[str]) -> Iterator[str]:
  """Yields the lines of a Markdown table."""
  heads = [
    *("video", "kB", "clip", *names),
    *("ours / best", "in the decoder", "and demuxer", "2 threads"),
  ]
  yield f"| {' | '.join(heads)} |"
  yield "|---" * len(heads) + "|"
  for row in rows:
    cells = [row["video"], row["kB"], row["clip"]]
    cells += [f"{row['ms'][name]:.1f}" for name in names]
    cells.append(f"{row['ratio']:.2f}" if row["ratio"] else "")
    cells += [f"{row[key]:.0%}" for key in ("decoder", "demuxer")]
    cells.append(f"{row['threads']:.2f}" if row["threads"] else "")
    yield f"| {' | '.join(map(str, cells))} |"


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--videos", type=int, default=4)
  parser.add_argument("--folder", type=pathlib.Path, help="keeps the videos")
  options = parser.parse_args()
  found = available()
  print(", ".join(f"{name} {version}" for name, version in found.items()))
  with tempfile.TemporaryDirectory() as temporary:
    folder = options.folder or pathlib.Path(temporary)
    folder.mkdir(parents=True, exist_ok=True)
    rows = measure(
      folder, list(found), videos=options.videos, rounds=options.rounds
    )
    for line in table(rows, list(found)):
      print(line, flush=True)


if __name__ == "__main__":
  main()
