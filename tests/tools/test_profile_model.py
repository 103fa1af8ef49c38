import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vidjax.models.cost import count_parameters, multiply_adds
from vidjax.models.registry import (
  MODELS,
  create_model,
  model_options,
  model_spec,
)
from vidjax.models.vit import ViT
from vidjax.nn.functional import split
from vidjax.tools import profile_model
from vidjax.tools.published import PUBLISHED

XVIT = [name for name in PUBLISHED if name.startswith("xvit")]
profile = functools.cache(profile_model.profile)


@pytest.fixture(scope="module")
def published(shared):
  return json.loads((shared / "published.json").read_text())["models"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_are_reached(published, name):
  row, want = profile(name), published[name]
  assert want["params"] in (row["params"], None)
  assert want["gmacs_per_view"] in (
    pytest.approx(row["gmacs_per_view"], rel=0.01),
    None,
  )


def test_figures_beside_the_profile_are_the_published_ones(published):
  for name, row in PUBLISHED.items():
    want = published[name]
    assert row.get("published_params") == want["params"]
    assert row.get("published_gmacs_per_view") == want["gmacs_per_view"]
    assert row.get("published") == want.get("published")
    assert row.get("views") == (want["views"] if "published" in want else None)
  assert PUBLISHED.keys() == published.keys() & MODELS.keys()


def frame_macs(o, tokens, keys):
  """L (12 N C^2 + 2 N M C) + 3 S K^2 C, where a query has M keys."""
  c, k = o["dim"], o["patch_size"]
  block = 12 * tokens * c**2 + 2 * tokens * keys * c
  return o["depth"] * block + 3 * (tokens - 1) * k**2 * c


def closed_form(name):
  """The multiply-adds of a registered model, from its options alone."""
  o, frames = model_options(name), model_spec(name).frames
  c, classes = o["dim"], o["num_classes"]
  patches = (o["image_size"] // o["patch_size"]) ** 2
  tokens = patches + 1
  joint = o["temporal"]["op"] == "joint"
  macs = frames * frame_macs(o, tokens, frames * tokens if joint else tokens)
  if o["temporal"]["op"] == "divided":
    # Attention of every patch over the frames, and a linear layer.
    macs += o["depth"] * frames * patches * (5 * c**2 + 2 * frames * c)
  if o["head"]["kind"] == "temporal_attention":
    n = frames + 1
    macs += 12 * n * c**2 + 2 * n**2 * c + c**2
  return macs + c * classes


@pytest.mark.parametrize(
  "name",
  [
    *XVIT,
    "xvit_motion",
    "vit_motion",
    "vit_joint_motion",
    "timesformer_motion",
    "tsm_vit_motion",
    "tokshift_vit_motion",
  ],
)
def test_closed_form(name):
  assert profile(name)["gmacs_per_view"] == round(closed_form(name) / 1e9, 3)


def test_large_model_without_published_accuracy():
  model = nnx.eval_shape(lambda: create_model("xvit_l16_8f_ssv2"))
  dead_classifier = 174 * 1024 + 174  # official modules own it, unused
  assert count_parameters(model) == 317_312_348 - dead_classifier
  macs = closed_form("xvit_l16_8f_ssv2")
  assert macs / 1e9 == pytest.approx(492.94, rel=0.01)


@pytest.mark.parametrize("name", ["tsm_vit_motion", "tokshift_vit_motion"])
def test_shifts_cost_nothing(name):
  row, plain = profile(name), profile("vit_motion")
  # The spatial-only baseline has no temporal positions: 8 rows of 96.
  assert row["params"] == plain["params"] + 8 * 96
  assert row["gmacs_per_view"] == plain["gmacs_per_view"]


def test_count_is_exact_and_independent_of_remat():
  video = jax.ShapeDtypeStruct((2, 3, 32, 40, 3), jnp.float32)
  options: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "dim": 96,
    "heads": 4,
  }
  options |= {"depth": 2, "num_classes": 12}
  for remat in ("none", "block"):
    model = nnx.eval_shape(
      lambda remat=remat: create_model("vit_motion", remat=remat, **options)
    )
    tokens, patches = 4 * 5 + 1, 4 * 5
    block = 12 * tokens * 96**2 + 2 * tokens**2 * 96
    frame = 2 * block + 3 * patches * 8**2 * 96
    position = multiply_adds_of_positions(8, 4, 5, 96)
    want = 6 * frame + 2 * 96 * 12 + position
    assert multiply_adds(model, video) == want


def multiply_adds_of_positions(side, rows, columns, dim):
  """The cheapest order of the table's two resizing products."""
  first_rows = rows * side * side * dim + rows * columns * side * dim
  first_columns = side * columns * side * dim + rows * columns * side * dim
  both = rows * columns * side * side * (1 + dim)
  return min(first_rows, first_columns, both)


class Counted(ViT):
  """A product of each kind that a model may hold, and no ViT at all."""

  def __init__(self):
    self.w = nnx.Param(jnp.zeros((4, 5)))

  def __call__(self, video, *, train=False, rngs=None):
    b = video.shape[0]
    x = jax.lax.conv_general_dilated(  # b 8 8 6, kernel 3 x 3 x 3
      video[:, 0],
      jnp.zeros((3, 3, 3, 6)),
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.lax.conv_general_dilated(  # b 8 8 4 in two groups of 3 inputs
      x,
      jnp.zeros((1, 1, 3, 4)),
      (1, 1),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
    )
    x = jax.jit(lambda x: x @ self.w[...])(x)
    x = jnp.einsum("bhwi,bhwj->bij", x, x)
    x, _ = jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)
    x = jax.lax.platform_dependent(
      x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x
    )
    return x.reshape(b, -1)


def test_counts_convolutions_products_loops_and_platforms():
  model = nnx.eval_shape(Counted)
  video = jax.ShapeDtypeStruct((2, 1, 16, 16, 3), jnp.float32)
  want = 2 * 64 * 6 * 27 + 2 * 64 * 4 * 3 + 2 * 64 * 4 * 5
  want += 2 * 64 * 25 + 7 * 2 * 125
  want += 2 * 2 * 125  # of the dearer platform
  assert multiply_adds(model, video) == want


def test_parameters_are_counted_without_statistics():
  norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0))
  assert count_parameters(norm) == 12
  model = nnx.eval_shape(lambda: create_model("xvit_motion"))
  leaves = jax.tree.leaves(split(model)[1])
  assert count_parameters(model) == sum(math.prod(x.shape) for x in leaves)


def test_json(capsys):
  names = ["xvit_motion", "vit_motion"]
  assert profile_model.main([*names, "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row["name"] for row in rows] == names
  keys = {
    "name",
    "system",
    "frames",
    "image_size",
    "params",
    "gmacs_per_view",
  }
  assert all(set(row) == keys for row in rows)
  assert rows[0] == profile("xvit_motion")


def test_json_has_the_published_figures():
  row = profile("xvit_b16_k400")
  assert json.loads(json.dumps(row)) == row
  assert row["published_params"] == 93_790_864
  assert row["published"] == {"K400": [80.2, 94.7]}


def test_table(capsys, monkeypatch):
  monkeypatch.setattr(profile_model, "profile", profile)
  assert profile_model.main(["xvit_b16_k400", "vit_motion"]) == 0
  header, first, second = capsys.readouterr().out.splitlines()
  assert header.split()[:2] == ["model", "frames"]
  assert first.split()[:5] == [
    "xvit_b16_k400",
    "16",
    "224",
    "93,790,864",
    "93,790,864",
  ]
  row = profile("vit_motion")
  assert second.split() == [
    "vit_motion",
    str(row["frames"]),
    str(row["image_size"]),
    f"{row['params']:,}",
    f"{row['gmacs_per_view']:.3f}",
  ]


def test_all_means_every_model(capsys, monkeypatch):
  monkeypatch.setattr(
    profile_model, "profile", lambda name: {"name": name, "params": 1}
  )
  assert profile_model.main(["--all", "--json"]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row["name"] for row in rows] == sorted(MODELS)


def test_unknown_model(capsys):
  assert profile_model.main(["xvit_b16"]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert "there is no model 'xvit_b16'; did you mean" in captured.err


def test_no_model(capsys):
  with pytest.raises(SystemExit) as stopped:
    profile_model.main([])
  assert stopped.value.code == 2
  assert "name a model or give --all" in capsys.readouterr().err
