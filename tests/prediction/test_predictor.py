"""A predictor gives the numbers of evaluation, and those of every window."""

import concurrent.futures
import pathlib
import shutil

import numpy as np
import pytest

import vidjax
from tests.data.small_videos import write_images, write_video
from tests.prediction.models import page, write_folder, write_run
from vidjax.data.decode import VideoError
from vidjax.data.manifest import load_manifest
from vidjax.data.records import Record, pack_record
from vidjax.evaluate import make_evaluator
from vidjax.nn.functional import split
from vidjax.prediction.predictor import Failure, Predictor
from vidjax.train.restore import load_run
from vidjax.train.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp("run"), page())


@pytest.fixture(scope="module")
def predictor(run):
  return Predictor(run)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
  """Four seconds."""
  return write_video(tmp_path_factory.mktemp("long") / "a.mp4", 48)


def paths(run, manifest=None):
  manifest = manifest or load_manifest(run / "motion", "val")
  return [manifest.file(clip) for clip in manifest.clips]


@pytest.fixture(scope="module")
def predictions(predictor, run):
  return list(predictor.predict_all(paths(run)))


def test_scores_are_those_of_evaluation(run, predictions):
  model, config, _ = load_run(run)
  definition, params, stats = split(model)
  manifest = load_manifest(run / "motion", "val")
  evaluate = make_evaluator(definition, config, manifest, make_mesh())
  scores = evaluate(params, stats).scores
  found = [p.probabilities for p in predictions]
  np.testing.assert_allclose(found, scores, atol=1e-6)
  assert len({p.top(1)[0].label for p in predictions}) > 1
  assert [p.path for p in predictions] == paths(run)
  assert {(p.frames, p.seconds) for p in predictions} == {(16, 16 / 12)}
  assert {p.timeline for p in predictions} == {None}


@pytest.mark.parametrize("batch_size", [4, 16])
def test_the_batch_size_changes_nothing(run, predictions, batch_size):
  other = Predictor(run, batch_size=batch_size).predict_all(paths(run))
  for ours, theirs in zip(other, predictions, strict=True):
    assert ours.path == theirs.path
    np.testing.assert_allclose(
      ours.probabilities, theirs.probabilities, atol=1e-6
    )


def test_other_views(run, long):
  one = Predictor(run, clips=1, crops=1)
  assert (one.views.count, one.views.frames) == (1, 4)
  many = Predictor(run, clips=3, crops=3)
  a, b = one.predict(long), many.predict(long)
  assert np.abs(a.probabilities - b.probabilities).max() > 1e-4


def test_a_window_is_predicted_as_a_video(predictor, long, tmp_path):
  """Frames 12 to 36, cut out without loss."""
  seen = []
  found = predictor.predict(
    long, window=2, stride=1, progress=lambda *x: seen.append(x)
  )
  assert found.timeline is not None
  assert found.timeline.start.tolist() == pytest.approx([0, 1, 2])
  assert found.timeline.stop.tolist() == pytest.approx([2, 3, 4])
  assert seen == [
    (long, pytest.approx(0.5)),
    (long, pytest.approx(0.75)),
    (long, 1.0),
  ]
  whole = write_images(tmp_path / "part", 48)
  for number in [*range(1, 13), *range(37, 49)]:
    (tmp_path / "part" / f"{number:05d}.png").unlink()
  folder = write_images(tmp_path / "whole", 48)
  np.testing.assert_array_equal(whole, folder)
  part = predictor.predict(tmp_path / "part")
  frames = predictor.predict(tmp_path / "whole", window=2, stride=1)
  assert frames.timeline is not None
  np.testing.assert_allclose(
    frames.timeline.probabilities[1], part.probabilities, atol=1e-6
  )
  np.testing.assert_allclose(
    frames.probabilities, frames.timeline.probabilities.mean(axis=0), rtol=1e-6
  )


def test_half_a_window_is_the_stride(predictor, long):
  found = predictor.predict(long, window=2)
  assert found.timeline is not None
  assert found.timeline.start.tolist() == pytest.approx([0, 1, 2])


def test_bad_videos_keep_their_place(predictor, run, tmp_path):
  good = paths(run)[0]
  empty = tmp_path / "empty.mp4"
  empty.touch()
  cut = shutil.copy(good, tmp_path / "cut.mp4")
  content = pathlib.Path(cut).read_bytes()
  pathlib.Path(cut).write_bytes(content[: len(content) // 2])
  files = [empty, good, tmp_path / "gone.mp4", good, cut]
  for window in (None, 1.0):
    found = list(predictor.predict_all(files, window=window))
    assert [x.path for x in found] == [pathlib.Path(f) for f in files]
    reasons = [x.error.reason if isinstance(x, Failure) else "" for x in found]
    assert reasons == ["empty", "", "missing", "", "truncated"]
  with pytest.raises(VideoError, match=r"empty.mp4 is empty"):
    predictor.predict(empty)


def test_a_video_shorter_than_a_clip(predictor, tmp_path):
  one = predictor.predict(write_video(tmp_path / "a.mp4", 1))
  assert one.frames == 1
  assert one.probabilities.sum() == pytest.approx(1)
  again = predictor.predict(tmp_path / "a.mp4", window=5)
  np.testing.assert_allclose(again.probabilities, one.probabilities, atol=1e-6)


def test_a_record(predictor, long, tmp_path):
  pytest.importorskip("array_record.python.array_record_module")
  from tests.data.test_records import write_shard

  record = Record("k", (0,), video=long.read_bytes())
  shard = write_shard(tmp_path / "a.array_record", [pack_record(record)])
  for window in (None, 2.0):
    file = predictor.predict(long, window=window)
    packed = predictor.predict(f"{shard}#0", window=window)
    np.testing.assert_array_equal(file.probabilities, packed.probabilities)


def test_features(predictor, long):
  plain = predictor.predict(long, window=2, stride=1)
  found = predictor.predict(long, window=2, stride=1, features=True)
  np.testing.assert_allclose(
    found.probabilities, plain.probabilities, atol=1e-6
  )
  assert plain.features is None
  rows = found.features
  assert rows is not None
  assert rows.frames.shape == (3 * 6, 4, 24)
  assert rows.window.tolist() == [0] * 6 + [1] * 6 + [2] * 6
  assert rows.view.tolist() == [*range(6)] * 3
  assert rows.start[6] == pytest.approx(1)
  assert rows.stop[6] == pytest.approx(3)
  np.testing.assert_allclose(rows.clip, rows.frames.mean(1), atol=1e-6)
  whole = predictor.predict(long, features=True).features
  assert whole is not None
  assert whole.frames.shape == (6, 4, 24)
  assert set(whole.stop.tolist()) == {4.0}


def test_many_threads(predictor, run, predictions):
  files = paths(run)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(predictor.predict, files))
  for ours, theirs in zip(found, predictions, strict=True):
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)


def test_a_pretrained_folder_is_the_same(run, predictions, tmp_path):
  folder = write_folder(tmp_path / "tiny", page())
  found = vidjax.predict(paths(run)[3], folder)
  assert found.labels == predictions[3].labels
  np.testing.assert_allclose(
    found.probabilities, predictions[3].probabilities, atol=1e-6
  )
  low = vidjax.predict(paths(run)[3], folder, dtype="bfloat16")
  distance = np.abs(low.probabilities - found.probabilities).max()
  assert 0 < distance < 0.1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"window": 0.0}, "window is 0.0 s; use more than 0"),
    ({"window": 1.0, "stride": -1.0}, "stride is -1.0 s; use more than 0"),
    ({"window": float("inf")}, "window is inf s"),
    ({"stride": 1.0}, "stride is 1.0 s, but of no window"),
  ],
)
def test_windows_that_cannot_be(predictor, long, options, message):
  with pytest.raises(ValueError, match=message):
    predictor.predict_all([long], **options)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"dtype": "float16"}, "dtype is 'float16'; use one of 'float32'"),
    ({"batch_size": 0}, "batch_size is 0; use 1 or more"),
    ({"crops": 2}, "crops per clip, not 2"),
    ({"clips": 4}, "3 clips per video"),
  ],
)
def test_options_that_cannot_be(run, options, message):
  with pytest.raises(ValueError, match=message):
    Predictor(run, **options)
