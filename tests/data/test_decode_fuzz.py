"""Damaged videos end as a verdict: nothing crashes, hangs or leaks.

The videos are decoded in a child process with limits; run as a program, this
file is that child. Each video that ends a child is named, and the next child
goes on behind it.
"""

import collections
import faulthandler
import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
import pytest

from tests.data.videos import make
from vidjax.data.container import REASONS
from vidjax.data.decode import Video, VideoError

BASES = {
  "h264.mp4": ("libx264", {"bf": "2", "g": "12"}),
  "hevc.mp4": ("libx265", {"x265-params": "keyint=12:log-level=none"}),
  "vp9.webm": ("libvpx-vp9", {"cpu-used": "8"}),
  "vp8.webm": ("libvpx", {"auto-alt-ref": "1"}),
}
SECONDS = 10  # of a video
MEMORY = 4 << 30
VERDICTS = {*REASONS, "ok"}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
  """Damages a file in one to three ways, often near its ends."""
  out = bytearray(data)
  for _ in range(rng.integers(1, 4)):
    n = len(out)
    if n < 2:
      break
    zone = (n, min(n, 1500))[rng.integers(2)]
    at = int(rng.integers(zone))
    if rng.random() < 0.5:
      at = n - 1 - at
    size = int(min(2 ** rng.uniform(0, 10), n - at))
    kind = rng.choice(6, p=[0.3, 0.25, 0.25, 0.08, 0.08, 0.04])
    if kind == 0:
      for place in rng.integers(zone, size=rng.integers(1, 40)):
        out[place] ^= 1 << rng.integers(8)
    elif kind == 1:
      out[at : at + size] = rng.bytes(size)
    elif kind == 2:
      out[at : at + size] = bytes([(0, 255)[rng.integers(2)]] * size)
    elif kind == 3:
      del out[at : at + size]
    elif kind == 4:
      out[at:at] = out[at : at + size]
    else:
      del out[int(rng.integers(n // 4, n)) :]
  return bytes(out)


def verdict(content: bytes, rng: np.random.Generator) -> str:
  try:
    with Video("fuzz", content) as video:
      n = video.frames
      assert video.info.frames == n
      out = video.read(rng.integers(n, size=4), lambda image: image[:8, :8])
      assert len(out) == 4
  except VideoError as error:
    return error.reason
  return "ok"


def damaged(bases: list[bytes], number: int) -> bytes:
  rng = np.random.default_rng([7, number])
  return mutate(bases[number % len(bases)], rng)


def child(folder: str, first: int, last: int) -> None:
  """Prints a line with the verdict and the memory (MiB) of each video."""
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
  bases = [(pathlib.Path(folder) / name).read_bytes() for name in BASES]
  for number in range(first, last):
    # Ends the process, wherever it hangs.
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
      found = verdict(damaged(bases, number), np.random.default_rng(number))
    except Exception as error:
      found = f"{type(error).__name__}: {error}"
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    mib = pages * resource.getpagesize() >> 20
    print(json.dumps({"verdict": found, "mib": mib}), flush=True)


def run_child(folder: pathlib.Path, first: int, last: int) -> list[dict]:
  """Results of videos, up to the first that ends the child."""
  result = subprocess.run(
    [
      *(sys.executable, "-m", "tests.data.test_decode_fuzz"),
      *(str(folder), str(first), str(last)),
    ],
    capture_output=True,
    text=True,
    cwd=pathlib.Path(__file__).parents[2],
    timeout=30 + SECONDS * (last - first),
  )
  lines = [json.loads(line) for line in result.stdout.splitlines()]
  if len(lines) < last - first:
    tail = result.stderr[-2000:]
    lines.append({"verdict": f"exit {result.returncode}: {tail}", "mib": 0})
  return lines


def fuzz(folder: pathlib.Path, count: int) -> list[dict]:
  """Runs children until every video has a verdict."""
  for name, (codec, options) in BASES.items():
    make(folder / name, codec, options, n=24)
  results = []
  while len(results) < count:
    results += run_child(folder, len(results), count)
  return results


def check(results: list[dict]) -> None:
  counts = collections.Counter(result["verdict"] for result in results)
  print(dict(counts))
  assert counts.keys() <= VERDICTS
  # Damage of every depth: to the container, to pictures, and to nothing seen.
  assert {"ok", "corrupt", "truncated", "not_a_video"} <= counts.keys()
  # No leak: a video takes less than a MiB, and thousands went by.
  memory = [result["mib"] for result in results]
  quarter = len(memory) // 4
  assert max(memory[-quarter:]) < max(memory[:quarter]) + 30


@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="needs /proc")
def test_every_damaged_video_ends_as_a_verdict(tmp_path):
  check(fuzz(tmp_path, 2000))


if __name__ == "__main__":
  child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
