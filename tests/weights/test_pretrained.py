"""Pretrained folders: what is read is what was written, or one clear error."""

import errno
import functools
import json
import pathlib

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

import vidjax
from configs.xvit_motion import get_config
from tests import oracles
from tests.models import tiny
from vidjax.models import registry
from vidjax.models.registry import create_model, registered
from vidjax.nn.functional import split
from vidjax.weights import pretrained
from vidjax.weights.files import WeightsFileError
from vidjax.weights.info import (
  PretrainedError,
  page_preprocessing,
  read_info,
)
from vidjax.weights.keys import WeightsError, flat
from vidjax.weights.pretrained import load_pretrained, save_pretrained

VIT = {
  "image_size": 16,
  "patch_size": 8,
  "dim": 24,
  "depth": 2,
  "heads": 3,
  "temporal": {"segment": 2, "blocks": (1,)},
  "head": {"heads": 3},
}
VISFORMER = {
  "image_size": 32,
  "stem_width": 4,
  "dim": 16,
  "depths": (1, 2, 1),
  "heads": 2,
}
LABELS = [f"class {i} | é" for i in range(12)]


@functools.cache
def model(name="xvit_motion"):
  """A tiny model with random, non-trivial weights. Do not change it."""
  options = VIT if name == "xvit_motion" else VISFORMER
  return oracles.build(create_model, name, **options)


@pytest.fixture
def folder(tmp_path):
  return save_pretrained(model(), tmp_path / "saved", labels=LABELS)


def assert_same_weights(ours, theirs):
  for a, b in zip(split(ours)[1:], split(theirs)[1:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(
      lambda x: x.dtype, b
    )


def edit(folder, **changes):
  config = json.loads((folder / "config.json").read_text())
  (folder / "config.json").write_text(json.dumps(config | changes))


# --- what a model knows of itself


def test_created_models_know_what_they_are():
  record = registered(model())
  assert record.name == "xvit_motion"
  overrides = record.overrides
  assert overrides.keys() == VIT.keys()
  assert overrides["temporal"]["blocks"] == (1,)
  assert overrides["temporal"]["shift_div"] == 4  # as registered
  again = nnx.eval_shape(lambda: create_model(record.name, **overrides))
  assert registered(again) == record
  definition = split(model())[0]
  assert hash(definition) == hash(split(again)[0])
  assert definition == split(again)[0]


def test_options_as_registered_are_no_overrides():
  abstract = nnx.eval_shape(lambda: create_model("vit_motion", depth=4))
  assert registered(abstract).overrides == {}
  old = {"a": 1, "b": (2, 3), "c": None}
  new = {"a": np.int64(1), "b": (2, 4), "c": np.float32(0.5)}
  assert json.loads(registry._changes("m", old, new)) == {"b": [2, 4], "c": 0.5}
  with pytest.raises(ValueError, match=r"model 'vit_motion' cannot be stored"):
    create_model("vit_motion", dim=object())


# --- there and back


@pytest.mark.parametrize("name", ["xvit_motion", "laps_visformer_motion"])
def test_there_and_back(tmp_path, name):
  saved = model(name)
  folder = vidjax.save_pretrained(saved, tmp_path / "new" / "folder")
  assert folder == tmp_path / "new" / "folder"
  found = vidjax.load_pretrained(folder)
  assert_same_weights(found, saved)
  assert registered(found) == registered(saved)
  video = tiny.video(8, saved.image_size, saved.image_size)
  np.testing.assert_array_equal(
    oracles.call(found, video), oracles.call(saved, video)
  )
  assert [p.name for p in folder.parent.iterdir()] == ["folder"]


def test_what_the_folder_holds(tmp_path):
  saved = model("laps_visformer_motion")
  preprocessing = page_preprocessing(get_config())
  folder = save_pretrained(
    saved,
    tmp_path / "a",
    labels=LABELS,
    preprocessing=preprocessing,
    provenance={"source": "a|b.pth"},
  )
  assert {p.name for p in folder.iterdir()} == {
    "model.safetensors",
    "config.json",
    "README.md",
  }
  arrays = load_file(folder / "model.safetensors")
  _, params, stats = split(saved)
  assert arrays.keys() == flat(params).keys() | flat(stats).keys()
  assert "stem/conv/kernel" in arrays
  assert "stem/norm/mean" in arrays
  assert {x.dtype for x in arrays.values()} == {np.dtype(np.float32)}
  config = json.loads((folder / "config.json").read_text())
  assert config["format"] == 1
  assert config["vidjax"] == vidjax.__version__
  assert config["model"] == {
    "name": "laps_visformer_motion",
    "overrides": json.loads(registered(saved).changes),
  }
  assert config["labels"] == LABELS
  assert config["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
  info = read_info(folder)
  assert info.preprocessing == preprocessing
  assert info.preprocessing["frames"] == 8
  assert info.preprocessing["sampling"] == "segments"
  assert info.preprocessing["crops"] == 1
  assert info.labels == tuple(LABELS)
  assert info.provenance == {"source": "a|b.pth"}
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  card = (folder / "README.md").read_text()
  assert card.startswith("---\nlibrary_name: vidjax\n")
  for words in (
    "# laps_visformer_motion",
    f"LAPS: {count:,} parameters, clips of 8 frames of 32 x 32 pixels, 12",
    "vidjax.load_pretrained(",
    "| mean | (0.5, 0.5, 0.5) |",
    r"| source | a\|b.pth |",
    "| depths | (1, 2, 1) |",
  ):
    assert words in card


def test_other_layouts_of_memory_are_stored_by_value(tmp_path):
  saved = oracles.build(create_model, "xvit_motion", **VIT)
  kernel = oracles.normal(24, 72, seed=3)
  saved.blocks[0].attention.qkv.kernel[...] = np.asfortranarray(kernel)
  folder = save_pretrained(saved, tmp_path / "a")
  array = load_file(folder / "model.safetensors")[
    "blocks/0/attention/qkv/kernel"
  ]
  np.testing.assert_array_equal(array, kernel)


def test_sharded_arrays_are_stored_whole(tmp_path):
  mesh = jax.make_mesh((jax.device_count(),), ("data",))
  place = jax.NamedSharding(mesh, jax.P())
  saved = oracles.build(create_model, "xvit_motion", **VIT)
  saved.position[...] = jax.device_put(saved.position[...], place)
  folder = save_pretrained(saved, tmp_path / "a")
  assert_same_weights(load_pretrained(folder), saved)


def test_overrides_change_the_saved_options(folder):
  found = load_pretrained(
    folder,
    dtype=jnp.bfloat16,
    remat="block",
    temporal={"window": 2},
    dropout_rate=0.3,
  )
  assert found.remat == "block"
  assert found.blocks[0].mlp.fc1.dtype == jnp.bfloat16
  assert found.head.dropout_rate == 0.3
  plug = found.blocks[1].temporal
  assert (plug.segment, plug.window) == (2, 2)
  assert_same_weights(found, model())


def test_a_new_head_on_request_only(folder):
  with pytest.raises(WeightsError) as error:
    load_pretrained(folder, num_classes=5)
  heading, *lines = str(error.value).splitlines()
  assert str(folder) in heading
  assert "new_head=True" in heading
  assert lines == [
    "  head/fc2/bias is (12,), but the model has (5,)",
    "  head/fc2/kernel is (24, 12), but the model has (24, 5)",
  ]
  found = load_pretrained(folder, num_classes=5, new_head=True)
  assert found.head.fc2.kernel.shape == (24, 5)
  assert np.abs(found.head.fc2.kernel[...]).max() > 0
  np.testing.assert_array_equal(
    found.head.fc1.kernel[...], model().head.fc1.kernel[...]
  )
  same = load_pretrained(folder, new_head=True)
  assert_same_weights(same, model())


def test_the_report_names_what_is_new(folder):
  other = create_model("xvit_motion", **VIT | {"num_classes": 5})
  filled = pretrained.fill_from_folder(folder, other, new_head=True)
  total = len(jax.tree.leaves(split(other)[1]))
  assert filled.report == (
    f"{folder}: {total - 2} of {total} arrays filled; the classifier is new: "
    "head/fc2/bias (5,), not (12,); head/fc2/kernel (24, 5), not (24, 12)"
  )


def test_one_error_lists_every_fault(folder):
  arrays = load_file(folder / "model.safetensors")
  del arrays["norm/bias"]
  arrays["extra/scale"] = np.zeros(3, np.float32)
  arrays["position"] = np.zeros((17, 24), np.float32)
  arrays["blocks/0/norm1/scale"] = np.zeros((24, 1), np.float32)
  save_file(arrays, folder / "model.safetensors")
  for new_head in (False, True):
    with pytest.raises(WeightsError) as error:
      load_pretrained(folder, new_head=new_head)
    assert str(error.value).splitlines()[1:] == [
      "  blocks/0/norm1/scale is (24, 1), but the model has (24,)",
      "  extra/scale (3,) is unknown to the model",
      "  norm/bias (24,) is missing",
      "  position is (17, 24), but the model has (5, 24)",
    ]


# --- weights of others


def test_an_official_file_by_its_model(tmp_path, monkeypatch):
  path = tmp_path / "official.safetensors"
  save_file({"a": np.ones(2, np.float32)}, path)
  seen = []

  def convert(source, model, *, family=None, new_head=False):
    seen.append((source, family, new_head))
    _, params, stats = split(model)
    params = jax.tree.map(jnp.ones_like, params)
    return type("Converted", (), {"params": params, "stats": stats} | REPORT)

  monkeypatch.setattr(pretrained, "convert", convert)
  found = load_pretrained("xvit_motion", path, new_head=True, **VIT)
  assert found.head.fc1.kernel[...].min() == 1
  assert registered(found).overrides["dim"] == 24
  ((source, family, new_head),) = seen
  np.testing.assert_array_equal(source["a"], np.ones(2))
  assert (family, new_head) == (None, True)


REPORT = {"report": "all filled"}


def test_the_arrays_of_a_folder_alone(folder):
  found = load_pretrained("xvit_motion", folder / "model.safetensors", **VIT)
  assert_same_weights(found, model())


def test_a_folder_by_name_and_path(folder):
  assert_same_weights(load_pretrained("xvit_motion", folder), model())
  with pytest.raises(PretrainedError, match=r"'xvit_motion' and not 'vit_mo"):
    load_pretrained("vit_motion", folder)


# --- what cannot be written


def test_models_without_a_name_are_not_saved(tmp_path):
  with pytest.raises(
    ValueError, match=r"this ViT has no registered name.*creat"
  ):
    save_pretrained(tiny.vit(), tmp_path / "a")
  assert not (tmp_path / "a").exists()


def test_abstract_models_are_not_saved(tmp_path):
  abstract = nnx.eval_shape(lambda: create_model("xvit_motion"))
  with pytest.raises(ValueError, match=r"abstract .* has no weights to save"):
    save_pretrained(abstract, tmp_path / "a")
  assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({"labels": ["a", "b"]}, "2 labels for the 12 classes of 'xvit_motion'"),
    ({"preprocessing": {"means": 1}}, "no preprocessing 'means'; use frames, "),
  ],
)
def test_what_does_not_fit_is_not_saved(tmp_path, options, words):
  with pytest.raises(ValueError, match=words):
    save_pretrained(model(), tmp_path / "a", **options)
  assert not list(tmp_path.iterdir())


def test_folders_are_not_overwritten(folder, tmp_path):
  before = {p: p.read_bytes() for p in folder.iterdir()}
  with pytest.raises(PretrainedError, match="exists already; delete it"):
    save_pretrained(model(), folder)
  assert {p: p.read_bytes() for p in folder.iterdir()} == before
  (tmp_path / "file").touch()
  with pytest.raises(PretrainedError, match="exists already"):
    save_pretrained(model(), tmp_path / "file")
  (tmp_path / "empty").mkdir()
  assert_same_weights(
    load_pretrained(save_pretrained(model(), tmp_path / "empty")), model()
  )


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
  def full(self, *arguments):
    self.touch()
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(pathlib.Path, "write_text", full)
  with pytest.raises(PretrainedError, match=r"written \(No space left on dev"):
    save_pretrained(model(), tmp_path / "a")
  assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
  def interrupted(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(pretrained, "card", interrupted)
  with pytest.raises(KeyboardInterrupt):
    save_pretrained(model(), tmp_path / "a")
  assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(PretrainedError, match=r"cannot be written \(Not a dir"):
    save_pretrained(model(), tmp_path / "file" / "a")


# --- what cannot be read


def test_damaged_arrays(folder):
  file = folder / "model.safetensors"
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(WeightsFileError, match="truncated or damaged"):
    load_pretrained(folder)


@pytest.mark.parametrize(
  "text", ["", "{", "[]", "{}", '{"format": 1}', "[" * 100_000, "\udcff"]
)
def test_damaged_descriptions(folder, text):
  data = text.encode("utf-8", "surrogateescape")
  (folder / "config.json").write_bytes(data)
  with pytest.raises(PretrainedError, match=r"config\.json does not describe"):
    load_pretrained(folder)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"format": 2}, "has format 2, and this vidjax reads 1"),
    ({"format": "1"}, "has format '1'"),
    ({"model": {"name": "xvit"}}, "KeyError.*overrides"),
    ({"model": {"name": "xvit", "overrides": {}}}, "no model 'xvit'; did you"),
    ({"model": {"name": "xvit_motion", "overrides": {"width": 3}}}, "'width'"),
    ({"model": {"name": "xvit_motion", "overrides": {"rngs": 1}}}, "'rngs'"),
    ({"labels": ["one"]}, "1 labels for the 12 classes"),
    ({"preprocessing": [1]}, "does not describe"),
  ],
)
def test_wrong_descriptions(folder, changes, words):
  edit(folder, **changes)
  with pytest.raises(ValueError, match=words):
    load_pretrained(folder)


def test_unknown_keys_are_left_alone(folder):
  edit(folder, licence="MIT", preprocessing={"frames": 4, "fps": 12})
  assert_same_weights(load_pretrained(folder), model())
  assert read_info(folder).preprocessing == {"frames": 4}


@pytest.mark.parametrize(
  ("source", "words"),
  [
    ("no/such/folder", "no folder no/such/folder, and it is no Hub repo"),
    ("nothing", "there is no folder nothing"),
    ("xvit_motion", "'xvit_motion' is a model without weights: use load_pr"),
  ],
)
def test_sources_that_are_none(source, words):
  with pytest.raises(PretrainedError, match=words):
    load_pretrained(source)


def test_folders_and_files_that_are_no_source(folder, tmp_path):
  (tmp_path / "empty").mkdir()
  with pytest.raises(
    PretrainedError, match=r"without config\.json and model\.safetensors; wri"
  ):
    load_pretrained(tmp_path / "empty")
  with pytest.raises(PretrainedError, match=r"does not tell its model: use lo"):
    load_pretrained(folder / "model.safetensors")


# --- the Hub


@pytest.fixture
def hub_cache(folder, tmp_path, monkeypatch):
  """A cache that holds the folder as `someone/tiny`, and no network."""
  cache = tmp_path / "hub"
  commit = "0123456789abcdef0123456789abcdef01234567"
  repository = cache / "models--someone--tiny"
  (repository / "snapshots").mkdir(parents=True)
  folder.rename(repository / "snapshots" / commit)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text(commit)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  return commit


def test_cached_repositories_without_a_network(hub_cache):
  assert_same_weights(load_pretrained("someone/tiny"), model())
  assert_same_weights(load_pretrained(f"someone/tiny@{hub_cache}"), model())


@pytest.mark.parametrize(
  ("source", "words"),
  [
    ("someone/other", "no folder someone/other here, and the Hub repository"),
    ("someone/tiny@v2", "the Hub repository someone/tiny at v2 is neither"),
  ],
)
def test_repositories_that_are_not_cached(hub_cache, source, words):
  with pytest.raises(PretrainedError, match=words) as error:
    load_pretrained(source)
  assert "\n" not in str(error.value)


def test_only_the_files_of_a_folder_are_fetched(folder, monkeypatch):
  seen = []

  def snapshot_download(repository, **options):
    seen.append((repository, options))
    return str(folder)

  monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
  assert_same_weights(load_pretrained("someone/tiny@v1"), model())
  ((repository, options),) = seen
  assert repository == "someone/tiny"
  assert options["revision"] == "v1"
  assert set(options["allow_patterns"]) == {
    "config.json",
    "model.safetensors",
    "README.md",
  }
