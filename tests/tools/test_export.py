"""The command that writes a model for other programs."""

import errno
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vidjax
from configs.xvit_motion import get_config
from tests import oracles
from tests.weights.sources import abstract, assert_same, filled, zeros
from vidjax.models.registry import create_model, list_models, registered
from vidjax.nn.functional import split
from vidjax.tools.export import (
  PLATFORMS,
  Source,
  export,
  main,
  program,
  read_source,
  signature,
)
from vidjax.train.checkpoint import Checkpoints
from vidjax.train.run import build
from vidjax.weights.convert import convert, official_state
from vidjax.weights.files import read_weights
from vidjax.weights.info import read_info

SWIN = {
  "image_size": 28,
  "patch_size": (2, 2, 2),
  "dim": 8,
  "depths": (2, 2),
  "heads": (1, 2),
  "dropout_rate": 0.0,
}
# One of each system, and SIFA in both of its backbones.
MODELS = {
  "xvit_b16_k400": {
    "image_size": 32,
    "dim": 24,
    "depth": 2,
    "heads": 3,
    "head": {"heads": 3},
  },
  "pst_t_k400": SWIN | {"bias_frames": 4},
  "laps_visformer_s_k400": {
    "image_size": 32,
    "stem_width": 4,
    "dim": 16,
    "depths": (1, 1, 1),
    "heads": 2,
  },
  "sifa_r50_16f_k400": {"image_size": 32, "dim": 4, "depths": (1, 2, 1, 1)},
  "sifa_swin_b_16f_k400": SWIN,
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = tuple(f"class {i} | é" for i in range(5))
FRAMES = 8
PREPROCESSING = {"frames": FRAMES, "mean": MEAN, "std": STD}


@functools.cache
def model(name):
  """A tiny model with random, non-trivial weights. Do not change it."""
  return oracles.build(
    create_model, name, **MODELS[name] | {"num_classes": 5}, scale=0.1
  )


def source(name="xvit_b16_k400"):
  return Source(model(name), LABELS, PREPROCESSING, {"licence": "MIT"})


@functools.cache
def exported(name):
  return program(source(name))


def clips(name, batch):
  side = MODELS[name]["image_size"]
  rng = np.random.default_rng(batch)
  return rng.integers(0, 256, (batch, FRAMES, side, side, 3), np.uint8)


def expected(name, video):
  """Logits of the model itself, on clips that NumPy has normalised."""
  normalised = (video / 255.0 - np.array(MEAN)) / np.array(STD)
  return oracles.jit(model(name))(jnp.asarray(normalised, jnp.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("pretrained") / "tiny"
  return vidjax.save_pretrained(
    model("xvit_b16_k400"),
    path,
    labels=LABELS,
    preprocessing=PREPROCESSING,
    provenance={"licence": "MIT"},
  )


# --- programs


@pytest.mark.parametrize("name", MODELS)
def test_one_program_for_any_batch(name):
  run = oracles.jit(exported(name).call)
  for batch in (1, 3):
    video = clips(name, batch)
    want = expected(name, video)
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(run(video), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_one_program_for_all_platforms(name):
  found = exported(name)
  assert found.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
  (video,) = found.in_avals
  side = MODELS[name]["image_size"]
  assert [str(n) for n in video.shape] == ["b", "8", str(side), str(side), "3"]
  assert video.dtype == np.uint8
  (logits,) = found.out_avals
  assert [str(n) for n in logits.shape] == ["b", "5"]
  assert logits.dtype == np.float32
  # The weights are in the program, which chooses by platform where it must.
  weights = jax.tree.leaves(split(model(name))[1:])
  assert len(found.mlir_module_serialized) > sum(x.nbytes for x in weights)
  assert "_platform_index" in found.mlir_module()
  assert found.nr_devices == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models("_motion"))
def test_all_operations_have_programs(name):
  ours = zeros(abstract(create_model, name))
  given = Source(ours, None, {"mean": MEAN, "std": STD}, {})
  assert [str(n) for n in program(given).out_avals[0].shape] == ["b", "12"]


def test_other_clips():
  found = program(source(), platforms=("cuda",), frames=16, image_size=48)
  assert found.platforms == ("cuda",)
  assert found.in_avals[0].shape[1:] == (16, 48, 48, 3)


def test_compute_dtype():
  name = "xvit_b16_k400"
  options = MODELS[name] | {"num_classes": 5, "dtype": jnp.bfloat16}
  half = zeros(abstract(create_model, name, **options))
  found = program(Source(half, None, PREPROCESSING, {}), platforms=("cpu",))
  assert "bf16" in found.mlir_module()
  assert "bf16" not in exported(name).mlir_module()
  assert found.out_avals[0].dtype == np.float32


def test_signature():
  told = json.loads(json.dumps(signature(source(), exported("xvit_b16_k400"))))
  assert told == {
    "format": 1,
    "model": {
      "name": "xvit_b16_k400",
      "overrides": registered(model("xvit_b16_k400")).overrides,
    },
    "input": {
      "shape": ["b", 8, 32, 32, 3],
      "dtype": "uint8",
      "values": "RGB clips (b, t, h, w, c) of 0 to 255, normalised inside",
    },
    "output": {
      "shape": ["b", 5],
      "dtype": "float32",
      "values": "logits (b, k); their softmax predicts",
    },
    "labels": list(LABELS),
    "preprocessing": {
      "frames": 8,
      "image_size": 32,
      "mean": list(MEAN),
      "std": list(STD),
    },
    "provenance": {"licence": "MIT"},
    "platforms": ["cpu", "cuda", "tpu"],
    "jax": jax.__version__,
    "vidjax": vidjax.__version__,
  }


# Runs every program of a folder where importing vidjax raises.
WITHOUT_VIDJAX = """
import json, pathlib, sys
sys.modules["vidjax"] = None
import jax, numpy as np
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
  told = json.loads((folder / "signature.json").read_text("utf-8"))
  saved = (folder / "model.stablehlo").read_bytes()
  program = jax.export.deserialize(bytearray(saved))
  assert list(program.platforms) == told["platforms"]
  run = jax.jit(program.call)
  for batch in (1, 3):
    video = np.load(folder / f"clips{batch}.npy")
    assert list(video.shape[1:]) == told["input"]["shape"][1:]
    np.save(folder / f"logits{batch}.npy", run(video))
assert not [name for name in sys.modules if name.startswith("vidjax.")]
"""


@pytest.mark.slow
def test_programs_run_without_vidjax(tmp_path, compile_cache):
  for name in MODELS:
    saved = tmp_path / "saved" / name
    vidjax.save_pretrained(model(name), saved, preprocessing=PREPROCESSING)
    out = tmp_path / "out" / name
    assert main([str(saved), str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
      "model.stablehlo",
      "signature.json",
    }
    for batch in (1, 3):
      np.save(out / f"clips{batch}.npy", clips(name, batch))
  done = subprocess.run(
    [sys.executable, "-I", "-c", WITHOUT_VIDJAX, str(tmp_path / "out")],
    cwd=tmp_path,
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(compile_cache),
    },
    capture_output=True,
    text=True,
    check=False,
    timeout=200,
  )
  assert done.returncode == 0, done.stderr
  for name in MODELS:
    for batch in (1, 3):
      np.testing.assert_allclose(
        np.load(tmp_path / "out" / name / f"logits{batch}.npy"),
        expected(name, clips(name, batch)),
        atol=1e-5,
        rtol=1e-5,
      )


# --- weights


@pytest.mark.parametrize("form", ["torch", "safetensors"])
@pytest.mark.parametrize("name", MODELS)
def test_official_weights_come_back_to_the_bit(name, form, tmp_path, capsys):
  if form == "torch":
    pytest.importorskip("torch", reason="PyTorch is not installed")
  ours = filled(model(name))  # with statistics that are not initial ones
  saved = vidjax.save_pretrained(
    ours, tmp_path / "saved", preprocessing=PREPROCESSING
  )
  out = tmp_path / "weights"
  assert main([str(saved), str(out), f"--format={form}"]) == 0
  state = read_weights(out)
  official = official_state(ours, frames=FRAMES)
  assert f"{len(official)} arrays" in capsys.readouterr().out
  assert state.keys() == official.keys()
  for key, value in official.items():
    assert state[key].dtype == value.dtype
    np.testing.assert_array_equal(state[key], value, err_msg=key)
  converted = convert(state, ours)
  assert_same(converted, ours)
  assert not converted.report.fresh


def test_torch_reads_tensors(folder, tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  export(folder, tmp_path / "x.pth", "torch")
  state = torch.load(tmp_path / "x.pth", weights_only=True)
  assert all(isinstance(value, torch.Tensor) for value in state.values())
  assert state["base_model.blocks.1.mlp.fc1.weight"].shape == (96, 24)


def test_frames_of_constants(tmp_path):
  name = "sifa_r50_16f_k400"
  saved = vidjax.save_pretrained(model(name), tmp_path / "saved")
  for frames, more in ((16, []), (32, ["--frames=32"])):
    out = tmp_path / f"{frames}.safetensors"
    assert main([str(saved), str(out), "--format=safetensors", *more]) == 0
    want = official_state(model(name), frames=frames)
    assert {k: v.shape for k, v in read_weights(out).items()} == {
      k: v.shape for k, v in want.items()
    }


# --- runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A work directory whose best checkpoint is not its newest."""
  path = tmp_path_factory.mktemp("run")
  config = get_config("smoke")
  config.data.frames = 4
  config.data.mean = MEAN
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "jit", oracles.jit)
    run = build(config, total_steps=10, steps_per_epoch=5)
    state = run.init(jax.random.key(7))
  other = jax.tree.map(lambda x: x + x, state)
  folder = path / "checkpoints"
  with Checkpoints(folder, keep=3, best_metric="eval/top1") as saved:
    saved.save(1, state, {"eval/top1": 0.9})
    saved.save(2, other, {"eval/top1": 0.1})
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  return path, config, state.params


def test_a_run_becomes_a_folder(workdir, tmp_path, capsys):
  path, config, params = workdir
  names = [f"motion {i}" for i in range(12)]
  (path / "motion").mkdir(exist_ok=True)
  (path / "motion" / "labels.json").write_text(json.dumps({"classes": names}))
  out = tmp_path / "folder"
  assert main([str(path), str(out), "--format=pretrained"]) == 0
  printed = capsys.readouterr().out
  assert printed == f"{out}: vidjax.load_pretrained({str(out)!r})\n"
  found = vidjax.load_pretrained(out)
  jax.tree.map(np.testing.assert_array_equal, split(found)[1], params)
  info = read_info(out)
  assert info.name == config.model.name
  assert info.labels == tuple(names)
  assert info.preprocessing["frames"] == 4
  assert info.preprocessing["mean"] == MEAN
  assert info.preprocessing["sampling"] == config.data.sampling
  assert info.provenance == {
    "run": config.name,
    "checkpoint": "checkpoints/1",
    "written by": f"vidjax {vidjax.__version__}",
  }
  # The program of the run is that of the folder.
  first, second = (program(read_source(place)) for place in (path, out))
  for each in (first, second):
    assert each.in_avals[0].shape[1:] == (4, 32, 32, 3)
  video = np.zeros((2, 4, 32, 32, 3), np.uint8)
  np.testing.assert_array_equal(first.call(video), second.call(video))


def test_labels_of_a_run_may_be_gone(workdir, tmp_path, monkeypatch):
  path, _, _ = workdir
  (path / "motion" / "labels.json").unlink(missing_ok=True)
  # Not those of the folder that the command happens to run in.
  (tmp_path / "labels.json").write_text('{"classes": ["a"]}')
  monkeypatch.chdir(tmp_path)
  assert read_source(path).labels is None


# --- errors


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (
      ["no/x", "out", "--format=pretrained"],
      "the Hub repository no/x is neither",
    ),
    (["FOLDER", "out", "--format=torch", "--platforms=cpu"], "'platforms'"),
    (["FOLDER", "out", "--format=pretrained", "--frames=4"], "'frames'"),
    (["FOLDER", "FOLDER", "--format=pretrained"], "exists already; delete it"),
    (["FOLDER", "FOLDER/config.json", "--format=safetensors"], "exists alread"),
    (["FOLDER", "FOLDER/config.json/x", "--format=safetensors"], "cannot be"),
  ],
)
def test_errors_are_one_line_of_the_command(
  folder, tmp_path, monkeypatch, capsys, arguments, words
):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  monkeypatch.chdir(tmp_path)
  before = sorted(folder.iterdir())
  given = [text.replace("FOLDER", str(folder)) for text in arguments]
  assert main(given) == 1
  printed = capsys.readouterr().err
  assert printed.startswith("error: ")
  assert words in printed
  assert not list(tmp_path.iterdir())
  assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
  ("changes", "options", "words"),
  [
    ({}, {"platforms": ("cpu", "gpu")}, "platform is 'gpu'; use one of 'cpu'"),
    ({}, {"platforms": ()}, "platforms are none; name each of them once"),
    ({}, {"platforms": ("tpu", "tpu")}, "platforms are tpu,tpu; name each"),
    ({}, {"frames": 0}, "frames is 0; use 1 or more"),
    ({}, {"image_size": 8}, "frames of 8 x 8 pixels are smaller than a patch"),
    ({"mean": MEAN}, {}, r"the std of normalisation is not known; port .*=std"),
  ],
)
def test_programs_that_cannot_be(changes, options, words):
  given = Source(model("xvit_b16_k400"), None, changes or PREPROCESSING, {})
  with pytest.raises(ValueError, match=words):
    program(given, **options)


def test_without_pytorch(folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert main([str(folder), str(tmp_path / "x"), "--format=torch"]) == 1
  assert 'pip install "vidjax[torch]", or write' in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def full(*arguments, **options):
  raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("form", ["torch", "safetensors", "stablehlo"])
def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch, form):
  if form == "torch":
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch, "save", full)
  elif form == "stablehlo":
    monkeypatch.setattr(pathlib.Path, "write_text", full)
  else:
    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
  with pytest.raises(ValueError, match=r"written \(No space left on device\)"):
    export(folder, tmp_path / "x", form)
  assert not list(tmp_path.iterdir())
