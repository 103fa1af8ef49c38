import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.prediction.models import model_of, page, write_folder, write_run
from vidjax.data.motion import CLASSES
from vidjax.data.views import Views
from vidjax.nn.functional import split
from vidjax.prediction.trained import CheckpointSourceError, load_trained
from vidjax.weights.info import PretrainedError
from vidjax.weights.keys import flat

VIEWS = Views(
  frames=4, image_size=32, sampling="segments", stride=16, clips=2, crops=3
)


@pytest.fixture(scope="module")
def config():
  return page()


@pytest.fixture(scope="module")
def run(tmp_path_factory, config):
  return write_run(tmp_path_factory.mktemp("run"), config)


@pytest.fixture
def copy(run, tmp_path):
  return shutil.copytree(run, tmp_path / "run")


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def assert_same(trained, config):
  wanted = flat(split(model_of(config))[1])
  found = flat(split(trained.model)[1])
  assert set(found) == set(wanted)
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value)
  assert trained.labels == tuple(CLASSES)
  assert trained.views == VIEWS
  assert trained.mean == (0.4, 0.5, 0.6)
  assert trained.std == (0.2, 0.3, 0.4)
  assert trained.head_sizes == ()


def test_a_run(run, config):
  trained = load_trained(run)
  assert_same(trained, config)
  assert trained.description == f"xvit_motion, {run}/checkpoints/1"


def test_a_pretrained_folder(config, tmp_path):
  folder = write_folder(tmp_path / "tiny", config)
  trained = load_trained(str(folder))
  assert_same(trained, config)
  assert trained.description == f"xvit_motion, {folder}"


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_the_compute_dtype(kind, run, config, tmp_path):
  source = run if kind == "run" else write_folder(tmp_path / "tiny", config)
  video = jnp.zeros((1, 4, 32, 32, 3))
  for dtype, wanted in (("bfloat16", "bfloat16"), (None, "float32")):
    model = load_trained(source, dtype=dtype).model
    found = nnx.eval_shape(lambda m: m.features(video), model)
    assert found.dtype == wanted


def test_a_run_of_a_former_version(copy):
  def forget(content):
    for key in ("crop_style", "short_side"):
      del content["eval"][key]
    for key in ("segments", "head", "head_sizes"):
      del content["data"][key]

  edit(copy / "config.json", forget)
  assert load_trained(copy).views == VIEWS


def test_names_where_the_data_has_moved(copy, caplog):
  shutil.rmtree(copy / "motion")
  names = [f"name {i}" for i in range(12)]
  (copy / "eval.json").write_text(json.dumps({"classes": names}))
  assert load_trained(copy).labels == tuple(names)
  (copy / "eval.json").unlink()
  assert load_trained(copy).labels == tuple(CLASSES)
  edit(copy / "config.json", lambda c: c["data"].update(source="manifest"))
  assert load_trained(copy).labels[:2] == ("class 0", "class 1")
  assert "does not name its 12 classes" in caplog.text


def test_several_heads(copy):
  heads = {"verb": list("abcde"), "noun": list("abcdefg")}
  root = copy / "motion"
  lines = (root / "val.jsonl").read_text().splitlines()
  entries = [json.loads(line) for line in lines]
  for entry in entries:
    entry["labels"] = [entry.pop("label") % 5, 0]
  (root / "val.jsonl").write_text("\n".join(map(json.dumps, entries)))
  (root / "labels.json").write_text(json.dumps({"heads": heads}))
  edit(
    copy / "config.json",
    lambda c: c["data"].update(head="all", head_sizes=[5, 7]),
  )
  trained = load_trained(copy)
  assert trained.head_sizes == (5, 7)
  wanted = [f"verb: {x}" for x in "abcde"] + [f"noun: {x}" for x in "abcdefg"]
  assert list(trained.labels) == wanted


def test_what_is_no_checkpoint(tmp_path):
  with pytest.raises(CheckpointSourceError, match="holds no model: name the"):
    load_trained(tmp_path)
  file = tmp_path / "weights.pth"
  file.touch()
  with pytest.raises(CheckpointSourceError, match="does not say its classes"):
    load_trained(file)
  with pytest.raises(PretrainedError, match="there is no folder"):
    load_trained(tmp_path / "gone")


def test_a_run_without_checkpoints(copy):
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(ValueError, match="has no checkpoint"):
    load_trained(copy)


def test_a_folder_that_does_not_say_all(config, tmp_path):
  folder = write_folder(tmp_path / "tiny", config)

  def forget(content):
    content["labels"] = None
    for key in ("frames", "image_size", "clips", "crops", "short_side"):
      del content["preprocessing"][key]

  edit(folder / "config.json", forget)
  trained = load_trained(folder)
  assert trained.views == Views(8, 32, "segments", 16)
  assert trained.labels[3] == "class 3"
  edit(folder / "config.json", lambda c: c["preprocessing"].pop("mean"))
  with pytest.raises(CheckpointSourceError, match="without mean: write it"):
    load_trained(folder)
