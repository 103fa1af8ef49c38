"""The command, and the two things that are called `vidjax.predict`."""

import importlib
import inspect
import json
import os
import pathlib
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

import vidjax
from tests.data.small_videos import write_video
from tests.prediction.models import page, write_folder
from vidjax.data.motion import CLASSES
from vidjax.predict import main

ROOT = pathlib.Path(__file__).parents[1]


pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  path = tmp_path_factory.mktemp("weights") / "tiny"
  return write_folder(path, page(clips=1, crops=1))


@pytest.fixture
def videos(tmp_path):
  root = tmp_path / "videos"
  write_video(root / "a.mp4", 24)
  write_video(root / "x" / "b.mp4", 12)
  return root


@pytest.fixture
def run(checkpoint, capsys):
  def call(*arguments):
    status = main([*map(str, arguments), f"--checkpoint={checkpoint}"])
    return status, *capsys.readouterr()

  return call


def test_one_video(run, videos):
  status, out, err = run(videos / "a.mp4", "--top=2")
  assert (status, err) == (0, "")
  first, *lines = out.splitlines()
  assert first == f"[1/1] {videos}/a.mp4 (24 frames, 2 s)"
  shares = [float(line.split("%")[0]) for line in lines]
  assert shares == sorted(shares, reverse=True)
  assert len(shares) == 2
  assert all(line.split("%  ")[1] in CLASSES for line in lines)


def test_all_files_of_a_folder(run, videos, tmp_path):
  (videos / "bad.mp4").touch()
  outs = {
    "json": "out.json",
    "features": "f.npz",
    "timeline": "t.png",
    "annotate": "o.mp4",
  }
  options = [f"--{key}={tmp_path / name}" for key, name in outs.items()]
  status, out, err = run(videos, "--window=1", "--stride=0.5", *options)
  assert status == 1
  heads = [line for line in out.splitlines() if line.startswith("[")]
  assert heads == [
    f"[1/3] {videos}/a.mp4 (24 frames, 2 s)",
    f"[3/3] {videos}/x/b.mp4 (12 frames, 1 s)",
  ]
  assert err.splitlines() == [
    f"[2/3] error: {videos}/bad.mp4 is empty (0 bytes): copy or download it "
    "again.",
    "error: 1 of 3 videos could not be read",
  ]
  found = json.loads((tmp_path / "out.json").read_text())
  assert found["labels"] == list(CLASSES)
  assert found["model"].startswith("xvit_motion, ")
  a, bad, b = found["videos"]
  assert bad == {
    "path": str(videos / "bad.mp4"),
    "error": f"{videos}/bad.mp4 is empty (0 bytes): copy or download it again.",
  }
  assert [w["start"] for w in a["windows"]] == [0, 0.5, 1]
  assert [w["start"] for w in b["windows"]] == [0]
  for window in a["windows"]:
    scores = np.array(window["probabilities"])
    assert scores.sum() == pytest.approx(1, abs=1e-5)
    assert [g["index"] for g in window["top"]] == np.argsort(-scores)[
      :5
    ].tolist()
  mean = np.mean([w["probabilities"] for w in a["windows"]], axis=0)
  np.testing.assert_allclose(a["probabilities"], mean, atol=2e-6)
  with np.load(tmp_path / "f.npz") as features:
    assert features["frames"].shape == (4, 4, 24)
    assert features["video"].tolist() == [a["path"]] * 3 + [b["path"]]
  names = {p.name for p in tmp_path.iterdir()} - {"videos"}
  assert names == {
    *("out.json", "f.npz", "t_a.png", "t_x_b.png", "o_a.mp4", "o_x_b.mp4")
  }
  with Image.open(tmp_path / "t_a.png") as image:
    assert image.width == 990
  with av.open(str(tmp_path / "o_x_b.mp4")) as container:
    assert sum(1 for _ in container.decode(video=0)) == 12


def test_a_line_of_progress(run, videos, monkeypatch):
  monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
  _, _, err = run(videos / "a.mp4", "--window=1", "--stride=0.5")
  shares = ("a.mp4: 50 %", "a.mp4: 75 %", "")
  assert err == "".join(f"\r{text}\033[K\r" for text in shares)


def test_a_video_that_breaks_while_it_is_drawn_on(
  run, videos, tmp_path, monkeypatch
):
  from vidjax.data.decode import VideoError
  from vidjax.prediction import outputs

  def broken(prediction, out, *, top):
    raise VideoError(prediction.path, "corrupt")

  monkeypatch.setattr(outputs, "annotate", broken)
  status, out, err = run(
    videos / "a.mp4",
    f"--annotate={tmp_path}/o.mp4",
    f"--json={tmp_path}/o.json",
  )
  assert (status, out) == (1, "")
  assert "[1/1] error:" in err
  (found,) = json.loads((tmp_path / "o.json").read_text())["videos"]
  assert set(found) == {"path", "error"}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--top=13"], "top is 13, but the model has 12 classes; use 1 to 12"),
    (["--top=0"], "top is 0, but the model has 12 classes"),
    (["--json=o.txt"], "--json=o.txt has the ending '.txt'; use .json"),
    (["--features=o.h5"], "has the ending '.h5'; use .npz or .parquet"),
    (["--annotate=o.avi"], "has the ending '.avi'; use .mp4"),
    (["--annotate=no/o.mp4"], "there is no folder no: make it"),
    (["--timeline=o.png"], "give --window=SECONDS too"),
    (["--stride=1"], "stride is 1.0 s, but of no window"),
    (["--window=0"], "window is 0.0 s; use more than 0"),
    (["--clips=4"], "3 clips per video"),
    (["--batch-size=0"], "batch_size is 0; use 1 or more"),
  ],
)
def test_what_cannot_be_done(run, videos, arguments, message):
  status, out, err = run(videos / "a.mp4", *arguments)
  assert (status, out) == (1, "")
  assert err.startswith("error: ")
  assert err.count("\n") == 1
  assert message in err


def test_no_checkpoint_and_no_videos(videos, tmp_path, capsys):
  assert main([str(videos), f"--checkpoint={tmp_path}/gone"]) == 1
  assert "there is no folder" in capsys.readouterr().err
  assert main([str(videos), f"--checkpoint={videos}"]) == 1
  assert "holds no model" in capsys.readouterr().err
  (tmp_path / "empty").mkdir()
  assert main([f"{tmp_path}/empty", f"--checkpoint={videos}"]) == 1
  assert "there is no video in" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(run, videos, tmp_path):
  (tmp_path / "taken.json").mkdir()
  status, _, err = run(videos / "a.mp4", f"--json={tmp_path}/taken.json")
  assert status == 1
  assert "taken.json cannot be written: choose another place" in err


@pytest.fixture
def forgotten(monkeypatch):
  """As if nobody had asked for `vidjax.predict` yet."""
  monkeypatch.delitem(sys.modules, "vidjax.predict")
  monkeypatch.delitem(vars(vidjax), "predict", raising=False)


def assert_right():
  module = sys.modules["vidjax.predict"]
  assert inspect.ismodule(module)
  assert inspect.isfunction(vidjax.predict)
  assert vidjax.predict is module.predict
  assert importlib.import_module("vidjax.predict") is module


@pytest.mark.usefixtures("forgotten")
def test_the_function_before_the_module():
  assert "predict" not in vars(vidjax)
  assert inspect.isfunction(vidjax.predict)
  assert_right()


@pytest.mark.usefixtures("forgotten")
def test_the_module_before_the_function():
  module = importlib.import_module("vidjax.predict")
  assert inspect.isfunction(module.main)
  assert_right()


@pytest.mark.usefixtures("forgotten")
def test_both_by_name():
  from vidjax import predict
  from vidjax.predict import main

  assert predict.__module__ == main.__module__ == "vidjax.predict"
  assert_right()


def test_other_modules_are_modules():
  import vidjax.evaluate

  assert inspect.ismodule(vidjax.evaluate)


def test_the_command_itself(checkpoint, videos):
  shutil.copy(videos / "a.mp4", videos / "c.mp4")
  result = subprocess.run(
    [
      *(sys.executable, "-W", "error::RuntimeWarning", "-m", "vidjax.predict"),
      *(str(videos), f"--checkpoint={checkpoint}", "--top=1"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
    env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
  )
  assert result.returncode == 0, result.stderr
  assert result.stdout.count("[") == 3
