from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

from tests import oracles
from tests.models import tiny
from tests.weights.sources import zeros
from vidjax.models.registry import create_model
from vidjax.nn.functional import merge, split
from vidjax.tools import parity_tps
from vidjax.tools.golden import read_case
from vidjax.weights.convert import official_state
from vidjax.weights.keys import WeightsError
from vidjax.weights.tps import TPS, position_index

C, P, WINDOW = 16, 4, 7
# Two stages in windows of 7 x 7, the only ones that the official code has.
OPTIONS = {
  "patch_size": (2, P, P),
  "window": (1, WINDOW, WINDOW),
  "image_size": 56,
  "bias_frames": 2,
}
BLOCK = "backbone.layers.1.blocks.0"
CONSTANTS = [
  f"{BLOCK}.attn.relative_position_index{end}" for end in ("", "_old")
]


def parameters(**options):
  return jax.device_get(split(tiny.swin(**OPTIONS | options))[1])


def flatten(tree) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep="/")


def assert_equal(tree, wanted):
  flat, wanted = flatten(tree), flatten(wanted)
  assert flat.keys() == wanted.keys()
  for path, leaf in flat.items():
    assert leaf.dtype == wanted[path].dtype
    np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)


@pytest.mark.parametrize(
  "options", [{}, {"qkv_bias": False, "patch_norm": False}], ids=str
)
def test_round_trip_is_exact(options):
  params = parameters(**options)
  exported = TPS.export(params)
  assert len(exported) == len(jax.tree.leaves(params))
  assert_equal(TPS.load(exported, params), params)


def official_keys(dim, depths, heads, frames, patch, classes):
  """The official state dict, key by key: shapes, and the constants' names."""

  def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

  out = dim * 2 ** (len(depths) - 1)
  result = {
    **pair("backbone.patch_embed.proj", dim, 3, *patch),
    **pair("backbone.patch_embed.norm", dim),
    **pair("backbone.norm", out),
    **pair("cls_head.fc_cls", classes, out),
  }
  constants = []
  for stage, (depth, g) in enumerate(zip(depths, heads, strict=True)):
    c = dim * 2**stage
    for i in range(depth):
      block = f"backbone.layers.{stage}.blocks.{i}"
      table = f"{block}.attn.relative_position_bias_table"
      result |= {
        **pair(f"{block}.norm1", c),
        table: ((2 * frames - 1) * 13 * 13, g),
        **pair(f"{block}.attn.qkv", 3 * c, c),
        **pair(f"{block}.attn.proj", c, c),
        **pair(f"{block}.norm2", c),
        **pair(f"{block}.mlp.fc1", 4 * c, c),
        **pair(f"{block}.mlp.fc2", c, 4 * c),
      }
      index = f"{block}.attn.relative_position_index"
      constants += [index, f"{index}_old"]
    if stage + 1 < len(depths):
      merging = f"backbone.layers.{stage}.downsample"
      result[f"{merging}.reduction.weight"] = (2 * c, 4 * c)
      result |= pair(f"{merging}.norm", 4 * c)
  return result, constants


def test_layouts_are_those_of_pytorch():
  exported = TPS.export(parameters(mlp_ratio=4.0))
  shapes = {key: value.shape for key, value in exported.items()}
  wanted, _ = official_keys(C, (2, 2), (2, 4), 2, (2, P, P), tiny.CLASSES)
  assert shapes == wanted


@pytest.mark.parametrize(
  ("name", "size", "entries"),
  [
    ("pst_t_k400", (96, (2, 2, 6, 2), (3, 6, 12, 24)), 197),
    ("pst_b_k400", (128, (2, 2, 18, 2), (4, 8, 16, 32)), 377),
  ],
)
def test_full_size_models_have_the_official_keys(name, size, entries):
  shapes, constants = official_keys(*size, 16, (2, 4, 4), 400)
  assert len(shapes) + len(constants) == entries
  model = zeros(nnx.eval_shape(lambda: create_model(name)))
  state = official_state(model)
  assert state.keys() == shapes.keys() | set(constants)
  for key, shape in shapes.items():
    assert state[key].shape == shape, key
  assert all(state[key].shape == (16, 49, 49) for key in constants)


def test_golden_weights_round_trip(shared):
  """Values move to the right place: transposes, tubes, tables."""
  case = read_case(shared / "golden/tps/tiny_base.npz")
  official = case.under("w/")
  params = TPS.load(official, split(parity_tps.build(case.official))[1])
  block = params["stages"]["1"]["blocks"]["0"]
  np.testing.assert_array_equal(
    block["attention"]["qkv"]["kernel"][3],
    official[f"{BLOCK}.attn.qkv.weight"][:, 3],
  )
  frame, row, column, colour = 1, 2, 3, 1  # a pixel of a 2 x 4 x 4 tube
  np.testing.assert_array_equal(
    params["patch_embed"]["proj"]["kernel"][
      ((frame * 4 + row) * 4 + column) * 3 + colour
    ],
    official["backbone.patch_embed.proj.weight"][:, colour, frame, row, column],
  )
  table = official[f"{BLOCK}.attn.relative_position_bias_table"]
  dt, dy, dx = -4, 5, -6  # a difference of frames, rows and columns
  np.testing.assert_array_equal(
    block["bias"]["table"][dt + 15, dy + 6, dx + 6],
    table[(dt + 15) * 169 + (dy + 6) * 13 + (dx + 6)],
  )
  exported = TPS.export(params)
  assert exported.keys() == official.keys()
  for key, value in exported.items():
    np.testing.assert_array_equal(value, official[key], err_msg=key)


def test_constants_are_ignored():
  params = parameters()
  source = TPS.export(params)
  for key in CONSTANTS:
    source[key] = np.zeros((16, 49, 49), np.int64)
  assert_equal(TPS.load(source, params), params)


def test_one_error_lists_every_fault():
  params = parameters()
  source = TPS.export(params)
  table = "attn.relative_position_bias_table"
  source[f"{BLOCK}.{table}"] = np.zeros((31 * 169, 4))  # of 16 frames
  source["backbone.layers.0.blocks.0.attn.qkv.weight"] = np.zeros((9, 9))
  source["backbone.patch_embed.proj.weight"] = np.zeros((C, 3, P, P))  # image
  source["backbone.layers.1.blocks.2.norm1.bias"] = np.zeros(32)
  source["backbone.layers.1.downsample.norm.bias"] = np.zeros(128)
  source["backbone.absolute_pos_embed"] = np.zeros(3)
  del source["backbone.norm.bias"]
  with pytest.raises(WeightsError) as error:
    TPS.load(source, params)
  heading, *lines = str(error.value).splitlines()
  assert heading == (
    "the weights do not fit this model; check its name and options:"
  )
  assert sorted(line.strip() for line in lines) == sorted(
    [
      f"{BLOCK}.{table} (5239, 4) gives stages/1/blocks/0/bias/table "
      "(31, 13, 13, 4), but the model has (3, 13, 13, 4)",
      "backbone.layers.0.blocks.0.attn.qkv.weight (9, 9) gives "
      "stages/0/blocks/0/attention/qkv/kernel (9, 9), but the model has "
      "(16, 48)",
      "backbone.patch_embed.proj.weight (16, 3, 4, 4) gives "
      "patch_embed/proj/kernel (16, 3, 4, 4), but the model has (96, 16)",
      "backbone.layers.1.blocks.2.norm1.bias (32,) belongs to "
      "stages/1/blocks/2/norm1/bias, which this model lacks",
      "backbone.layers.1.downsample.norm.bias (128,) belongs to "
      "stages/1/merge/norm/bias, which this model lacks",
      "unknown key backbone.absolute_pos_embed (3,)",
      "nothing fills norm/bias (32,)",
    ]
  )


def test_an_empty_state_dict_misses_everything():
  params = parameters()
  with pytest.raises(WeightsError) as error:
    TPS.load({}, params)
  lines = str(error.value).splitlines()[1:]
  assert len(lines) == len(jax.tree.leaves(params))


def test_a_table_that_no_window_of_seven_has():
  params = parameters()
  source = TPS.export(params)
  key = f"{BLOCK}.attn.relative_position_bias_table"
  source[key] = np.zeros((100, 4))
  with pytest.raises(WeightsError, match=r"table \(100, 4\) gives stages/1"):
    TPS.load(source, params)


def test_loaded_weights_run():
  model = tiny.swin(**OPTIONS)
  definition, params, stats = split(model)
  loaded = TPS.load(TPS.export(jax.device_get(params)), params)
  again = merge(definition, jax.tree.map(jnp.asarray, loaded), stats)
  video = tiny.swin_video(4, 56, 56, batch=1)
  np.testing.assert_array_equal(
    oracles.call(again, video), oracles.call(model, video)
  )


def test_plugs_with_weights_have_no_official_keys():
  params = parameters(temporal={"op": "divided"})
  with pytest.raises(
    WeightsError, match=r"parameter stages/\d/blocks/\d/temporal/.* has no"
  ):
    TPS.export(params)


def test_rows_of_the_bias_tables():
  """Token by token: differences of frames, rows and columns, from zero."""
  frames = np.array([[0, 2, 1, 0, 1, 2], [1, 0, 2, 1, 2, 0], [2, 1, 0] * 2])
  window = (3, 2, 3)
  index = position_index(frames, frames[:1], window)
  assert index.dtype == np.int64
  assert index.shape == (3, 6, 6)
  for t, q, k in np.ndindex(3, 6, 6):
    dt = frames[t, q] - frames[0, k] + 2
    dy, dx = q // 3 - k // 3 + 1, q % 3 - k % 3 + 2
    assert index[t, q, k] == (dt * 3 + dy) * 5 + dx
  joint = np.arange(8)[None] // 4
  index = position_index(joint, joint, (2, 2, 2))[0]
  for q, k in np.ndindex(8, 8):
    dt = q // 4 - k // 4 + 1
    dy, dx = q % 4 // 2 - k % 4 // 2 + 1, q % 2 - k % 2 + 1
    assert index[q, k] == (dt * 3 + dy) * 3 + dx
