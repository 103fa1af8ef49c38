r"""Re-encodes a data set's videos and packs them into ArrayRecord shards.

    python -m vidjax.tools.shard DATA OUT [--splits train val] [--workers=8]
    python -m vidjax.tools.shard DATA OUT --runner=DataflowRunner --project=...

DATA is a folder with a manifest, as `vidjax.tools.index` makes it; OUT becomes
one, with the shards beside the manifest: train with --config.data.root=OUT.
Videos are scaled to a short side of 256 pixels and written with a keyframe
every 12 frames and without B-frames, which halves the time of decoding and
more. Every video is decoded again and compared, and every shard read back.

A shard is the unit of work: an interrupted command that is started again goes
on with the shards that are missing. The work is done by Apache Beam, whose
options follow ours; all workers must see both folders under the same paths.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.shards import Job, ShardError, array_record, finish
from vidjax.data.transcode import Encoding


def jobs_of(
  data: pathlib.Path,
  out: pathlib.Path,
  *,
  encoding: Encoding,
  splits: Sequence[str] = (),
  clips_per_shard: int = 1000,
  seed: int = 0,
) -> list[Job]:
  """Returns the work on a data set.

  Args:
    data: folder of the data set.
    out: folder of the shards, another one.
    encoding: how the videos are written.
    splits: their names; all manifests of the folder if there are none.
    clips_per_shard: at most.
    seed: of the order.

  Raises:
    ManifestError: if there is no such data set.
    ValueError: if an argument is out of range.
  """
  if out.resolve() == data.resolve():
    raise ValueError(
      f"the shards would be written over the data set in {data}: name another "
      "folder."
    )
  if clips_per_shard < 1:
    raise ValueError(f"clips_per_shard is {clips_per_shard}; use 1 or more.")
  if not splits:
    splits = sorted(
      {p.stem for kind in ("jsonl", "parquet") for p in data.glob(f"*.{kind}")}
      - {"journal"}
    )
  if not splits:
    raise ManifestError(
      f"{data} holds no manifest: make one with vidjax.tools.index."
    )
  return [
    Job(
      data.resolve(),
      split,
      out.resolve(),
      -(-len(load_manifest(data, split).clips) // clips_per_shard),
      seed,
      encoding,
    )
    for split in splits
  ]


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    prog="python -m vidjax.tools.shard",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  default = Encoding()
  parser.add_argument("data", type=pathlib.Path)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--splits", nargs="+", default=[], help="default: all")
  parser.add_argument("--clips_per_shard", type=int, default=1000)
  parser.add_argument("--seed", type=int, default=0, help="of the order")
  parser.add_argument("--short_side", type=int, default=default.short_side)
  parser.add_argument("--crf", type=int, default=default.crf)
  parser.add_argument("--gop", type=int, default=default.gop)
  parser.add_argument("--preset", default=default.preset)
  parser.add_argument("--workers", type=int, default=1, help="on this machine")
  parser.add_argument("--runner", default="DirectRunner", help="of Apache Beam")
  options, beam_flags = parser.parse_known_args(arguments)
  try:
    jobs = jobs_of(
      options.data,
      options.out,
      splits=options.splits,
      clips_per_shard=options.clips_per_shard,
      seed=options.seed,
      encoding=Encoding(
        options.short_side, options.crf, options.gop, options.preset
      ),
    )
    array_record()
    from vidjax.tools.shard_beam import run_jobs

    run_jobs(jobs, options.runner, options.workers, beam_flags)
    for job in jobs:
      counts = finish(job)
      print(f"{job.split}: {counts}")
  except (ValueError, OSError, ImportError, ShardError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(options.out)
  return 0


if __name__ == "__main__":
  sys.exit(main())
