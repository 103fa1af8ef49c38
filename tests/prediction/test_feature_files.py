import dataclasses

import numpy as np
import pytest
from pyarrow import parquet

from tests.prediction.models import prediction
from vidjax.prediction.feature_files import FeatureFile
from vidjax.prediction.results import Features


def featured(path, rows, seed):
  rng = np.random.default_rng(seed)
  frames = rng.standard_normal((rows, 4, 5)).astype(np.float32)
  features = Features(
    window=np.arange(rows) // 2,
    view=np.arange(rows) % 2,
    start=np.arange(rows) * 0.5,
    stop=np.arange(rows) * 0.5 + 1,
    clip=frames.mean(axis=1),
    frames=frames,
  )
  return dataclasses.replace(prediction(path), features=features)


def read(path):
  if path.suffix == ".npz":
    with np.load(path) as archive:
      return dict(archive)
  table = parquet.read_table(path)
  return {
    name: np.array(table[name].to_pylist()) for name in table.column_names
  }


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_all_rows_of_all_videos(tmp_path, suffix):
  path = tmp_path / f"f{suffix}"
  videos = [featured("a.mp4", 4, 0), featured("b.mp4", 2, 1)]
  with FeatureFile(path) as file:
    for video in videos:
      file.add(video)
    assert not path.exists()
  found = read(path)
  assert found["video"].tolist() == ["a.mp4"] * 4 + ["b.mp4"] * 2
  for name in ("window", "view", "start", "stop", "clip", "frames"):
    wanted = np.concatenate([getattr(v.features, name) for v in videos])
    np.testing.assert_array_equal(found[name], wanted)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_an_error_leaves_nothing(tmp_path, suffix):
  def write(*videos):
    with FeatureFile(tmp_path / f"f{suffix}") as file:
      for video in videos:
        file.add(video)

  with pytest.raises(ValueError, match="predicted without features"):
    write(featured("a.mp4", 4, 0), prediction())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_no_video_no_file(tmp_path, suffix):
  with FeatureFile(tmp_path / f"f{suffix}"):
    pass
  assert not list(tmp_path.iterdir())
