"""Every video is counted once, however the batches are cut."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from configs.xvit_motion import get_config
from tests.oracles import jit
from vidjax.data.decode import Video
from vidjax.data.geometry import eval_crops, resize
from vidjax.data.manifest import load_manifest
from vidjax.data.motion import write_motion_clips
from vidjax.data.sampling import segments_eval
from vidjax.evaluate import Evaluation, make_evaluator
from vidjax.nn.functional import merge, split
from vidjax.train.sharding import make_mesh

CLASSES, VIDEOS, CLIPS = 12, 14, 2
FRAMES, SIZE = 4, 32
BROKEN = 5


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> pathlib.Path:
  root = tmp_path_factory.mktemp("evaluate") / "motion"
  return write_motion_clips(
    root, train_clips=12, val_clips=VIDEOS, frames=8, size=SIZE
  )


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", jit)
    yield


def page(batch_size: int):
  config = get_config("smoke")
  config.data.frames = FRAMES
  config.eval.update(
    {"batch_size": batch_size, "clips": CLIPS, "crops": 3, "fusion": "softmax"}
  )
  config.data.update({"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)})
  return config


class Linear(nnx.Module):
  """One matrix over all pixels: other videos, other classes."""

  def __init__(self, rngs: nnx.Rngs):
    size = FRAMES * SIZE * SIZE * 3
    draw = jax.random.normal(rngs.params(), (size, CLASSES))
    self.kernel = nnx.Param(0.03 * draw)

  def __call__(self, video: jax.Array) -> jax.Array:
    return video.reshape(len(video), -1) @ self.kernel[...]


@pytest.fixture(scope="module")
def model():
  return split(Linear(nnx.Rngs(0)))


def evaluate(model, root, batch_size) -> Evaluation:
  definition, params, stats = model
  manifest = load_manifest(root, "val")
  run = make_evaluator(definition, page(batch_size), manifest, make_mesh())
  return run(params, stats)


@pytest.fixture(scope="module")
def whole(model, clips) -> Evaluation:
  return evaluate(model, clips, 8)


@pytest.fixture(scope="module")
def scores(model, clips) -> np.ndarray:
  """Mean softmax of each video, (n k): one view after the other."""
  definition, params, stats = model
  config, manifest = page(1), load_manifest(clips, "val")
  forward = jit(lambda video: merge(definition, params, stats)(video))
  fused = []
  for clip in manifest.clips:
    views = []
    with Video(manifest.file(clip)) as video:
      for number in range(CLIPS):
        indices = segments_eval(
          video.frames, frames=FRAMES, stride=1, clip=number, clips=CLIPS
        )
        frames = video.read(indices)
        for box in eval_crops(SIZE, SIZE, size=SIZE, crops=3):
          assert (box.height, box.width) == (SIZE, SIZE)
          pixels = box.cut(np.stack([resize(f, SIZE, SIZE) for f in frames]))
          x = (pixels / 255 - config.data.mean) / config.data.std
          logits = np.asarray(forward(x.astype(np.float32)[None]))[0]
          powers = np.exp(logits - logits.max())
          views.append(powers / powers.sum())
    fused.append(np.mean(views, axis=0))
  return np.array(fused)


def labels(clips) -> list[int]:
  return [clip.label for clip in load_manifest(clips, "val").clips]


def test_a_pass_equals_a_loop_over_the_videos(whole, scores, clips):
  confusion = np.zeros((CLASSES, CLASSES), int)
  top5 = 0
  for row, label in zip(scores, labels(clips), strict=True):
    ranking = np.argsort(-row)
    confusion[label, ranking[0]] += 1
    top5 += label in ranking[:5]
  share = np.diag(confusion) / confusion.sum(1)
  assert len(set(scores.argmax(1))) > 2
  np.testing.assert_array_equal(whole.prediction, scores.argmax(1))
  np.testing.assert_allclose(whole.scores, scores, rtol=1e-4)
  assert whole.confusion == confusion.tolist()
  assert whole.per_class == share.tolist()
  assert whole.metrics == pytest.approx(
    {
      "eval/top1": np.trace(confusion) / VIDEOS,
      "eval/top5": top5 / VIDEOS,
      "eval/class_accuracy": share.mean(),
    }
  )
  assert (whole.views, whole.failed) == ("2x3", [])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(batch_size, model, clips, whole):
  other = evaluate(model, clips, batch_size)
  for field in dataclasses.fields(Evaluation):
    ours, theirs = getattr(other, field.name), getattr(whole, field.name)
    if field.name == "scores":
      np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    else:
      np.testing.assert_array_equal(ours, theirs, field.name)


def test_a_broken_video_is_named_wrong_and_alone(
  model, clips, whole, scores, tmp_path
):
  root = shutil.copytree(clips, tmp_path / "motion")
  manifest = load_manifest(root, "val")
  broken = manifest.clips[BROKEN]
  content = manifest.file(broken).read_bytes()
  manifest.file(broken).write_bytes(content[: len(content) // 2])
  found = evaluate(model, root, 8)
  assert found.failed == [broken.id]
  others = np.arange(VIDEOS) != BROKEN
  assert np.isnan(found.scores[BROKEN]).all()
  for name in ("prediction", "scores"):
    np.testing.assert_array_equal(
      getattr(found, name)[others], getattr(whole, name)[others]
    )
  confusion = np.array(whole.confusion)
  confusion[broken.label, whole.prediction[BROKEN]] -= 1
  assert found.confusion == confusion.tolist()
  assert found.per_class[broken.label] == 0
  right = scores.argmax(1) == labels(clips)
  assert found.metrics["eval/top1"] == right[others].sum() / VIDEOS
  assert found.describe().endswith(
    "(2x3 clips x crops, 14 videos, 1 unreadable)"
  )


def test_many_broken_videos_are_all_named(model, clips, tmp_path):
  root = shutil.copytree(clips, tmp_path / "motion")
  lines = (root / "val.jsonl").read_text().splitlines()
  many = [
    line.replace('"val_', f'"{i}_val_') for i in range(2) for line in lines
  ]
  (root / "val.jsonl").write_text("\n".join(many))
  manifest = load_manifest(root, "val")
  for clip in manifest.clips:
    manifest.file(clip).write_bytes(b"")
  found = evaluate(model, root, 8)
  assert found.failed == [clip.id for clip in manifest.clips]
  assert len(found.failed) == 2 * VIDEOS
  assert not np.any(found.confusion)
  assert found.metrics["eval/top1"] == found.metrics["eval/top5"] == 0


def test_the_line_of_an_evaluation(whole):
  line = dataclasses.replace(
    whole, metrics={"eval/top1": 0.5, "eval/top5": 0.98765}
  ).describe()
  assert line == ("top-1 50.00 %, top-5 98.77 % (2x3 clips x crops, 14 videos)")
