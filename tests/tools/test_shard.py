import importlib.util
import json
import sys
import types

import pytest

from tests.data.test_shards import COUNT, write_data
from vidjax.data.clips import open_clip
from vidjax.data.manifest import ManifestError, load_manifest
from vidjax.data.shards import write_shard
from vidjax.data.transcode import Encoding
from vidjax.tools.shard import jobs_of, main

needs_array_record = pytest.mark.skipif(
  importlib.util.find_spec("array_record") is None,
  reason="array_record is not installed",
)


@pytest.fixture
def data(tmp_path):
  root = write_data(tmp_path / "toy")
  lines = (root / "train.jsonl").read_text().splitlines(keepends=True)
  (root / "val.jsonl").write_text("".join(lines[:2]))
  (root / "journal.jsonl").write_text("{}\n")  # of vidjax.tools.index
  return root


@pytest.fixture
def without_beam(monkeypatch):
  """The pipeline's place is taken by a loop."""

  def run_jobs(jobs, runner, workers, flags):
    calls.append((runner, workers, list(flags)))
    for job in jobs:
      for number in range(job.shards):
        write_shard(job, number)

  calls = []
  module = types.SimpleNamespace(run_jobs=run_jobs)
  monkeypatch.setitem(sys.modules, "vidjax.tools.shard_beam", module)
  return calls


def test_jobs(data, tmp_path):
  encoding = Encoding(crf=22)
  jobs = jobs_of(data, tmp_path / "out", encoding=encoding, clips_per_shard=3)
  assert [(job.split, job.shards) for job in jobs] == [("train", 3), ("val", 1)]
  assert {job.encoding.crf for job in jobs} == {22}
  (job,) = jobs_of(data, tmp_path / "out", encoding=encoding, splits=["val"])
  assert (job.split, job.shards) == ("val", 1)
  assert job.shard(0).name == "val-00000-of-00001.array_record"


def test_wrong_arguments(data, tmp_path, capsys):
  with pytest.raises(ValueError, match="written over the data set"):
    jobs_of(data, data / "videos" / "..", encoding=Encoding())
  with pytest.raises(ValueError, match="clips_per_shard is 0"):
    jobs_of(data, tmp_path, encoding=Encoding(), clips_per_shard=0)
  with pytest.raises(ManifestError, match="holds no manifest"):
    jobs_of(tmp_path, data, encoding=Encoding())
  assert main([str(tmp_path / "gone"), str(tmp_path / "out")]) == 1
  assert "error: " in capsys.readouterr().err


@needs_array_record
def test_command(data, tmp_path, capsys, without_beam):
  out = tmp_path / "out"
  arguments = [str(data), str(out), "--short_side=24", "--clips_per_shard=4"]
  flags = ["--runner=FlinkRunner", "--workers=3", "--flink_master=host:8081"]
  assert main([*arguments, *flags]) == 0
  assert without_beam == [("FlinkRunner", 3, ["--flink_master=host:8081"])]
  printed = capsys.readouterr().out
  assert f"'videos': {COUNT}" in printed
  assert "'failed_not_a_video': 1" in printed
  manifest = load_manifest(out, "train")
  assert len(manifest.usable().clips) == COUNT
  with open_clip(manifest.file(manifest.clips[0])) as video:
    assert (video.info.height, video.info.width) == (24, 36)
  assert len(load_manifest(out, "val").clips) == 2


@needs_array_record
def test_without_apache_beam(data, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(sys.modules, "vidjax.tools.shard_beam", raising=False)
  assert main([str(data), str(tmp_path / "out")]) == 1
  error = capsys.readouterr().err
  assert "apache-beam is missing: pip install 'vidjax[shard]'" in error


@needs_array_record
@pytest.mark.filterwarnings("ignore")  # those of Beam are its own
def test_with_apache_beam(data, tmp_path, capsys):
  pytest.importorskip("apache_beam", reason="apache-beam is not installed")
  out = tmp_path / "out"
  arguments = [str(data), str(out), "--clips_per_shard=3", "--workers=2"]
  assert main(arguments) == 0
  shards = sorted(path.name for path in out.glob("*.array_record"))
  assert len(shards) == 4
  counters = json.loads((out / "train.shards.json").read_text())["counters"]
  assert counters["videos"] == COUNT
  # Started again, it makes what is missing only.
  kept, gone = out / shards[0], out / shards[1]
  before = kept.stat().st_mtime_ns
  content = gone.read_bytes()
  gone.unlink()
  assert main(arguments) == 0
  assert kept.stat().st_mtime_ns == before
  assert gone.read_bytes() == content
