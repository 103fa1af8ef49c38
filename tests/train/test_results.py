import numpy as np
import pytest
from PIL import Image

from configs.xvit_motion import get_config
from vidjax.checks import Config
from vidjax.data.manifest import load_manifest
from vidjax.data.motion import write_motion_clips
from vidjax.data.pipeline import eval_batches
from vidjax.evaluate import Evaluation
from vidjax.train import results


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  root = tmp_path_factory.mktemp("results") / "motion"
  write_motion_clips(root, train_clips=12, val_clips=12, size=40)
  return load_manifest(root, "val")


VIEWS = [
  {"crop_style": "slowfast", "short_side": 0},
  {"crop_style": "mmaction", "short_side": 64},
]


@pytest.mark.parametrize("views", VIEWS)
def test_examples_are_cropped_as_in_evaluation(views, tmp_path, manifest):
  config: Config = get_config("smoke")
  config.eval.update(views)
  config.data.frames = 3
  labels = np.array([clip.label for clip in manifest.clips])
  evaluation = Evaluation(
    metrics={},
    views="1x1",
    per_class=[],
    confusion=[],
    prediction=labels,
    scores=np.full((len(labels), len(manifest.classes)), 0.5, np.float32),
    failed=[],
  )
  found = results._write_examples(tmp_path, config, evaluation, manifest)
  assert len(found) == results.EXAMPLES
  pictures = []
  for example in found:
    with Image.open(tmp_path / example["frames"]) as picture:
      pictures.append(np.asarray(picture.convert("RGB"), float))
  apart = []
  for options in VIEWS:
    with eval_batches(
      manifest, config.data, batch_size=12, clips=1, crops=1, **options
    ) as batches:
      (batch,) = batches
    index = [clip.id for clip in manifest.clips]
    first = [batch["video"][index.index(x["id"]), 0, 0] for x in found]
    apart.append(np.abs(np.stack(pictures) - np.stack(first)).mean())
  own = VIEWS.index(views)
  assert apart[own] < 6  # the pictures are compressed
  assert apart[1 - own] > 2 * apart[own]
