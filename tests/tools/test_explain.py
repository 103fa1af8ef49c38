import cv2
import jax
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.data.views import Views
from vidjax.explain.layers import Query
from vidjax.models.resnet import ResNet
from vidjax.prediction.trained import Trained
from vidjax.tools import explain
from vidjax.tools.explain import main, parse_heads, parse_query

LABELS = ("left", "right", "up", "down", "none")
RESNET = {"image_size": 32, "dim": 4, "depths": (1, 2, 1, 1)}
MODELS = {
  "vit": lambda: tiny.vit(temporal={"op": "mixing"}),
  "resnet": lambda: oracles.build(
    ResNet, 5, scale=0.1, dual_head=False, **RESNET
  ),
}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
  def load(checkpoint):
    views = Views(8, 32, "segments", 1)
    half = (0.5, 0.5, 0.5)
    return Trained(
      MODELS[checkpoint](), LABELS, (), views, half, half, f"tiny, {checkpoint}"
    )

  monkeypatch.setattr(jax, "jit", oracles.jit)
  monkeypatch.setattr(explain, "load_trained", load)


@pytest.fixture
def video(tmp_path):
  folder = tmp_path / "video"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for number in range(10):
    image = rng.integers(0, 255, (40, 48, 3), np.uint8)
    cv2.imwrite(str(folder / f"{number:05d}.png"), image)
  return str(folder)


def run(video, out, model, *options):
  return main([video, f"--checkpoint={model}", f"--out={out}", *options])


@pytest.mark.parametrize(
  ("model", "options", "name"),
  [
    ("vit", ("--head=all", "--query=3,1,2", "--layer=blocks.0"), "a.png"),
    ("vit", ("--method=rollout",), "b.mp4"),
    ("vit", ("--method=saliency", "--label=up"), "c.png"),
    ("resnet", ("--method=offsets", "--query=0,1,1", "--layer=0"), "d.png"),
  ],
)
def test_pictures_and_films(tmp_path, video, capsys, model, options, name):
  out = tmp_path / name
  assert run(video, out, model, *options) == 0
  assert capsys.readouterr().out.strip() == str(out)
  if out.suffix == ".png":
    image = cv2.imread(str(out))
    assert image.shape[0] > 200
    assert image.shape[1] > 600
  else:
    capture = cv2.VideoCapture(str(out))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 8


@pytest.mark.parametrize(
  ("model", "options", "message"),
  [
    ("vit", ("--layer=7",), "there is no layer '7'; use one of 0 blocks.0"),
    ("vit", ("--head=9",), "blocks.1.attention has no head 9; it has 3,"),
    ("vit", ("--head=none",), "the head is 'none'; use a number, 'mean' or"),
    ("vit", ("--query=8,0,0",), "there is no frame 8; the layer has 8 frames"),
    ("vit", ("--query=0,4,0",), "there is no token in row 4, column 0;"),
    ("vit", ("--query=zero",), "the query is 'zero'; use FRAME,ROW,COLUMN"),
    ("vit", ("--method=offsets",), "this ViT has no inter-frame attention"),
    ("vit", ("--method=rollout", "--query=0,0,0"), "name it with --layer"),
    ("vit", ("--method=saliency", "--label=in"), "the label is 'in'; use one"),
    ("resnet", (), "a ResNet has no softmax attention to look at; use the"),
    ("resnet", ("--method=rollout",), "a ResNet has no softmax attention"),
    ("resnet", ("--method=offsets", "--query=5,0,0"), "has no position 0, 0"),
  ],
)
def test_errors_are_one_sentence(
  tmp_path, video, capsys, model, options, message
):
  assert run(video, tmp_path / "out.png", model, *options) == 1
  error = capsys.readouterr().err
  assert error.startswith("error: ")
  assert message in error
  assert len(error.splitlines()) == 1


def test_files_that_cannot_be(tmp_path, video, capsys):
  assert run(video, tmp_path / "out.jpg", "vit") == 1
  assert "the ending of --out is '.jpg'; use one of" in capsys.readouterr().err
  assert run(video, tmp_path / "x.mp4", "resnet", "--method=offsets") == 1
  assert "write them to a .png" in capsys.readouterr().err
  assert run(str(tmp_path / "no.mp4"), tmp_path / "out.png", "vit") == 1
  assert "no.mp4" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    main([video, "--checkpoint=vit"])
  assert "name the picture with --out" in capsys.readouterr().err


def test_the_list_of_layers(video, capsys):
  assert main([video, "--checkpoint=vit", "--list"]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "0 blocks.0.attention (3 heads)",
    "1 blocks.1.attention (3 heads)",
  ]
  assert main([video, "--checkpoint=resnet", "--list"]) == 0
  assert capsys.readouterr().out.splitlines() == [
    "0 stages.1.1.temporal.attention (offsets)"
  ]


def test_queries_and_heads():
  assert parse_query("3,1,2") == Query(3, (1, 2))
  assert parse_query("0,class") == Query(0, None)
  assert parse_heads("all", 3) == [0, 1, 2]
  assert parse_heads("mean", 3) == [None]
  assert parse_heads("2", 3) == [2]
