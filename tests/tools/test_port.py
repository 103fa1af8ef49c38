"""The command that turns weights of other code into a pretrained folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import vidjax
from tests import oracles
from vidjax.models.registry import create_model, registered
from vidjax.nn.functional import split
from vidjax.tools.port import (
  assignments,
  find_preprocessing,
  main,
  read_labels,
)
from vidjax.weights.convert import official_state
from vidjax.weights.info import read_info

OPTIONS = {
  "image_size": 32,
  "patch_size": 16,
  "dim": 24,
  "depth": 2,
  "heads": 3,
  "head": {"heads": 3},
}
OVERRIDES = [
  f"--override={key}={value}"
  for key, value in {
    "image_size": 32,
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "head.heads": 3,
  }.items()
]


@pytest.fixture(scope="module")
def model():
  return oracles.build(create_model, "xvit_motion", **OPTIONS)


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
  path = tmp_path_factory.mktemp("official") / "x.safetensors"
  state = official_state(model)
  save_file({k: np.ascontiguousarray(x) for k, x in state.items()}, path)
  return path


def run(source, folder, *more):
  """Runs the command on the tiny model."""
  return main([str(source), "--model=xvit_motion", str(folder), *more])


def test_an_official_file_becomes_a_folder(model, source, tmp_path, capsys):
  labels = tmp_path / "labels.json"
  names = [f"class {i}" for i in range(12)]
  labels.write_text(json.dumps({"name": "mine", "classes": names}))
  folder = tmp_path / "out"
  status = run(
    source,
    folder,
    f"--labels={labels}",
    "--preprocessing=mean=(0.4,0.5,0.6)",
    "--provenance=licence=MIT",
    *OVERRIDES,
  )
  assert status == 0
  printed = capsys.readouterr().out
  filled = len(jax.tree.leaves(split(model)[1:]))
  assert f"{filled} arrays filled, 0 fresh" in printed
  assert printed.endswith(f"{folder}: vidjax.load_pretrained('{folder}')\n")
  found = vidjax.load_pretrained(folder)
  for ours, theirs in zip(split(found)[1:], split(model)[1:], strict=True):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert registered(found) == registered(model)
  info = read_info(folder)
  assert info.labels == tuple(names)
  # Of configs/xvit_motion.py, but for the flag and the override.
  assert info.preprocessing["frames"] == 8
  assert info.preprocessing["sampling"] == "segments"
  assert info.preprocessing["mean"] == (0.4, 0.5, 0.6)
  assert info.preprocessing["std"] == (0.5, 0.5, 0.5)
  assert info.preprocessing["image_size"] == 32
  assert info.provenance["source"] == "x.safetensors"
  assert len(info.provenance["sha256"]) == 64
  assert info.provenance["family"] == "xvit"
  assert info.provenance["not in the source"] == "nothing"
  assert info.provenance["licence"] == "MIT"
  assert "| licence | MIT |" in (folder / "README.md").read_text()


def test_a_training_checkpoint_of_torch(model, tmp_path, capsys):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  official = official_state(model)
  state = {f"module.{k}": torch.tensor(v).half() for k, v in official.items()}
  zeros = {key: torch.zeros_like(value) for key, value in state.items()}
  path = tmp_path / "checkpoint.pyth"
  torch.save({"epoch": 3, "model_state": zeros, "model_ema": state}, path)
  assert run(path, tmp_path / "a", "--ema", *OVERRIDES) == 0
  printed = capsys.readouterr().out
  assert "'module.' cut from all keys" in printed
  assert "arrays cast from float16 to float32" in printed
  assert "\nread from its entry 'model_ema'\n" in printed
  info = read_info(tmp_path / "a")
  assert info.provenance["read from"] == "its entry 'model_ema'"
  found = vidjax.load_pretrained(tmp_path / "a")
  kernel = model.head.fc1.kernel[...]
  np.testing.assert_array_equal(
    found.head.fc1.kernel[...],
    kernel.astype(jnp.float16).astype(jnp.float32),
  )
  assert run(path, tmp_path / "b", *OVERRIDES) == 0
  told = "its entry 'model_state' (ema takes its moving average 'model_ema'"
  assert told in capsys.readouterr().out
  assert not np.any(vidjax.load_pretrained(tmp_path / "b").head.fc1.kernel[...])


def test_a_new_head(model, source, tmp_path, capsys):
  options = ["--num-classes=5", *OVERRIDES]
  assert run(source, tmp_path / "a", *options) == 1
  printed = capsys.readouterr().err
  assert "head/fc2" in printed
  assert "(--new-head keeps the model's own classifier)" in printed
  assert not (tmp_path / "a").exists()
  assert run(source, tmp_path / "a", "--new-head", *options) == 0
  assert "head/fc2/kernel" in capsys.readouterr().out
  found = vidjax.load_pretrained(tmp_path / "a")
  assert found.head.fc2.kernel.shape == (24, 5)
  np.testing.assert_array_equal(
    found.head.fc1.kernel[...], model.head.fc1.kernel[...]
  )
  fresh = read_info(tmp_path / "a").provenance["not in the source"]
  assert set(fresh.split(", ")) == {"head/fc2/kernel", "head/fc2/bias"}


@pytest.mark.parametrize(
  ("more", "words"),
  [
    (["--override=dpeth=3"], "no option 'dpeth'"),
    (["--override=depth"], "'depth' is no setting; write key=value"),
    (["--family=nothing", *OVERRIDES], "family is 'nothing'"),
    (["--labels=no/labels.json"], "no/labels.json holds no class names"),
    (["--preprocessing=means=1", *OVERRIDES], "no preprocessing 'means'"),
    ([], "x.safetensors"),
  ],
)
def test_errors_are_one_line_of_the_command(
  source, tmp_path, capsys, more, words
):
  if not more:
    source = tmp_path / "missing" / "x.safetensors"
  assert run(source, tmp_path / "a", *more) == 1
  printed = capsys.readouterr().err
  assert printed.startswith("error: ")
  assert words in printed
  assert not (tmp_path / "a").exists()


def test_weights_that_are_ported_already(source, tmp_path, capsys):
  assert run(source, tmp_path / "a", *OVERRIDES) == 0
  again = tmp_path / "a" / "model.safetensors"
  assert run(again, tmp_path / "b", *OVERRIDES) == 1
  words = "as vidjax itself saves them, which need no conversion; load them"
  assert words in capsys.readouterr().err


def test_labels_of_text_files(tmp_path):
  (tmp_path / "a.txt").write_text("left\n\nturn right\n", "utf-8")
  assert read_labels(tmp_path / "a.txt") == ["left", "turn right"]
  (tmp_path / "a.json").write_text("[1, 2]")
  with pytest.raises(ValueError, match=r"a\.json holds no class names"):
    read_labels(tmp_path / "a.json")


def test_assignments():
  assert assignments(
    ["a=3", "b.c=(1, 2)", "b.d.e=None", "f=kv", "g=a=b", "h=1e-5", "i='3'"]
  ) == {
    "a": 3,
    "b": {"c": (1, 2), "d": {"e": None}},
    "f": "kv",
    "g": "a=b",
    "h": 1e-5,
    "i": "3",
  }
  for wrong in ("a", "=3", ""):
    with pytest.raises(ValueError, match=r"is no setting; write key=value"):
      assignments([wrong])


@pytest.mark.parametrize(
  ("name", "frames", "mean", "views"),
  [
    ("xvit_b16_k400", 16, (0.5, 0.5, 0.5), (1, 3)),
    ("pst_t_k400", 32, (0.485, 0.456, 0.406), (4, 3)),
  ],
)
def test_preprocessing_of_configuration_pages(name, frames, mean, views):
  found = find_preprocessing(name)
  assert found["frames"] == frames
  np.testing.assert_allclose(found["mean"], mean, atol=1e-6)
  assert (found["clips"], found["crops"]) == views


def test_models_without_a_page():
  assert find_preprocessing("laps_vit_l16_384_k400") == {}
