import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.data.videos import make
from vidjax.data import shards as shards_lib
from vidjax.data.clips import open_clip
from vidjax.data.decode import decode
from vidjax.data.manifest import load_manifest
from vidjax.data.records import read_record
from vidjax.data.shards import (
  Job,
  ShardError,
  finish,
  read_report,
  verify_shard,
  write_shard,
)
from vidjax.data.transcode import Encoding

pytest.importorskip(
  "array_record.python.array_record_module",
  reason="array_record is not installed",
)
COUNT = 7
LABELS = {"name": "toy", "classes": ["a", "b", "c"], "flip": {"0": 1, "1": 0}}


def write_data(root: pathlib.Path) -> pathlib.Path:
  """Seven good videos and a bad one; one of them is a part."""
  (root / "videos").mkdir(parents=True)
  lines = []
  for i in range(COUNT):
    make(root / "videos" / f"{i}.mp4", n=10 + i, size=(48, 32))
    entry = {"id": f"v{i}", "path": f"videos/{i}.mp4", "label": i % 3}
    lines.append(entry | ({"start": 2, "stop": 8} if i == 3 else {}))
  (root / "videos" / "bad.mp4").write_bytes(b"no video at all" * 9)
  lines.append({"id": "bad", "path": "videos/bad.mp4", "label": 1})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (root / "train.jsonl").write_text(text)
  (root / "labels.json").write_text(json.dumps(LABELS))
  return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  return write_data(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
  """A job that is done."""
  job = Job(data, "train", tmp_path_factory.mktemp("shards"), 3)
  for number in range(3):
    write_shard(job, number)
  return job, finish(job)


def test_every_clip_is_in_one_shard(data, tmp_path):
  job = Job(data, "train", tmp_path, 3)
  parts = [[clip.id for clip in job.clips(n)] for n in range(3)]
  assert [len(part) for part in parts] == [3, 3, 2]
  ids = [clip for part in parts for clip in part]
  assert sorted(ids) == ["bad", *(f"v{i}" for i in range(COUNT))]
  other = dataclasses.replace(job, seed=1)
  assert [clip.id for clip in other.clips(0)] != parts[0]


def test_shards_are_a_data_set(data, made):
  job, _ = made
  old, new = load_manifest(data, "train"), load_manifest(job.out, "train")
  assert (new.classes, new.flip) == (old.classes, old.flip)
  source = {clip.id: clip for clip in old.clips}
  assert sorted(clip.id for clip in new.clips) == sorted(source)
  assert [clip.status for clip in new.clips] == ["ok"] * 7 + ["not_a_video"]
  for clip in new.usable().clips:
    was = source[clip.id]
    assert clip.label == was.label
    with open_clip(new.file(clip)) as video:
      first, count = was.part(10 + int(clip.id[1:]))
      assert video.frames == clip.frames == count
      got = video.read(range(count)).astype(int)
    want = decode(old.file(was), range(first, first + count))
    assert np.abs(got - want).mean() < 8
    record = read_record(new.file(clip))
    assert (record.key, record.labels) == (clip.id, (was.label,))
    assert record.facts["num_frames"] == count


def test_counters(data, made):
  job, counters = made
  assert counters["videos"] == COUNT
  assert counters["failed_not_a_video"] == 1
  assert counters["frames"] == sum(10 + i for i in range(COUNT)) - 13 + 6
  sizes = [(data / "videos" / f"{i}.mp4").stat().st_size for i in range(COUNT)]
  assert counters["bytes_in"] == sum(sizes)
  summary = json.loads((job.out / "train.shards.json").read_text())
  assert summary["counters"] == counters
  assert summary["encoding"]["short_side"] == 256


def test_what_is_there_is_not_made_again(made, monkeypatch):
  job, _ = made
  before = read_report(job, 1)
  monkeypatch.setattr(shards_lib, "transcode", None)
  assert write_shard(job, 1) == before


def test_another_job_makes_its_own(made):
  job, _ = made
  for change in ({"seed": 1}, {"encoding": Encoding(crf=30)}):
    assert read_report(dataclasses.replace(job, **change), 1) is None


def test_interrupted_shard_is_made_again(made, tmp_path, monkeypatch):
  done, _ = made
  job = dataclasses.replace(done, out=tmp_path / "out")
  transcode, calls = shards_lib.transcode, []

  def stop(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
      raise KeyboardInterrupt
    return transcode(*arguments)

  monkeypatch.setattr(shards_lib, "transcode", stop)
  with pytest.raises(KeyboardInterrupt):
    write_shard(job, 0)
  assert list(job.out.iterdir()) == []
  with pytest.raises(ShardError, match=r"shards 0, 1, 2 of 'train' .* missing"):
    finish(job)
  # The same bytes as of the uninterrupted run.
  write_shard(job, 0)
  assert job.shard(0).read_bytes() == done.shard(0).read_bytes()


def test_damaged_shard_is_made_again(made, tmp_path):
  done, _ = made
  job = dataclasses.replace(done, out=tmp_path / "out")
  shutil.copytree(done.out, job.out)
  with job.shard(2).open("r+b") as file:
    file.truncate(1000)
  assert read_report(job, 2) is None
  assert write_shard(job, 2) == read_report(done, 2)


def test_content_is_verified(made, tmp_path):
  job, _ = made
  with pytest.raises(ShardError, match="has 3 records of 2 that were written"):
    verify_shard(job.shard(0), ["", ""])
  with pytest.raises(ShardError, match="and record 0 is another"):
    verify_shard(job.shard(0), ["", "", ""])
  path = tmp_path / "copy.array_record"
  data = bytearray(job.shard(0).read_bytes())
  data[len(data) // 3] ^= 1
  path.write_bytes(data)
  with pytest.raises(ShardError, match=r"cannot be read back|is another|has"):
    verify_shard(path, [""] * 3)


def test_a_write_that_is_lost_is_found(made, tmp_path, monkeypatch):
  done, _ = made
  job = dataclasses.replace(done, out=tmp_path)
  module = shards_lib.array_record()

  class Forgetful(module.ArrayRecordWriter):
    def write(self, data):
      super().write(data[:-1] + b"x")

  class Module:
    ArrayRecordWriter = Forgetful
    ArrayRecordReader = module.ArrayRecordReader

  monkeypatch.setattr(shards_lib, "array_record", lambda: Module)
  with pytest.raises(ShardError, match="record 0 is another"):
    write_shard(job, 0)
  assert list(tmp_path.iterdir()) == []


def test_without_array_record(made, tmp_path, monkeypatch):
  done, _ = made

  def fail(name):
    raise ImportError(name)

  monkeypatch.setattr(shards_lib.importlib, "import_module", fail)
  job = dataclasses.replace(done, out=tmp_path)
  with pytest.raises(ImportError, match=r"vidjax\[shard\]"):
    write_shard(job, 0)
