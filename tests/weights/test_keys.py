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
from vidjax.tools import parity_xvit
from vidjax.tools.golden import read_case
from vidjax.weights import transforms, xvit
from vidjax.weights.convert import official_state
from vidjax.weights.keys import Ignored, KeyTable, Rule, WeightsError
from vidjax.weights.layouts import layout_of
from vidjax.weights.transforms import LINEAR, PATCHES, SAME, squeeze

MIXING = {"op": "mixing"}
TA = tiny.ATTENTION | {"layers": 2, "mlp_dim": 10}
# Head options, table, and where the official code keeps the classifier.
FAMILIES = [
  pytest.param(TA, xvit.TEMPORAL_ATTENTION, "consensus.mlp_head.4", id="ta"),
  pytest.param(tiny.AVERAGE, xvit.AVERAGE, "new_fc", id="average"),
  pytest.param(
    tiny.AVERAGE,
    xvit.AVERAGE_WITHOUT_DROPOUT,
    "base_model.head",
    id="average without dropout",
  ),
]


def parameters(head):
  return jax.device_get(split(tiny.vit(temporal=MIXING, head=head))[1])


def flatten(tree) -> dict[str, Any]:
  return traverse_util.flatten_dict(tree, sep="/")


def assert_equal(tree, wanted):
  flat, wanted = flatten(tree), flatten(wanted)
  assert flat.keys() == wanted.keys()
  for path, leaf in flat.items():
    assert leaf.dtype == wanted[path].dtype
    np.testing.assert_array_equal(leaf, wanted[path], err_msg=path)


@pytest.mark.parametrize(("head", "table", "classifier"), FAMILIES)
def test_round_trip_is_exact(head, table, classifier):
  params = parameters(head)
  exported = table.export(params)
  assert len(exported) == len(jax.tree.leaves(params))
  assert {f"{classifier}.weight", f"{classifier}.bias"} <= exported.keys()
  assert_equal(table.load(exported, params), params)


@pytest.mark.parametrize(("head", "table", "classifier"), FAMILIES)
def test_layouts_are_those_of_pytorch(head, table, classifier):
  c, p = tiny.DIM, tiny.PATCH
  exported = table.export(parameters(head))
  shapes = {key: value.shape for key, value in exported.items()}
  block = "base_model.blocks.1"
  assert shapes["base_model.cls_token"] == (1, 1, c)
  assert shapes["base_model.pos_embed"] == (1, 17, c)
  assert shapes["base_model.temp_embed"] == (1, 8, 1, c)
  assert shapes["base_model.patch_embed.proj.weight"] == (c, 3, p, p)
  assert shapes[f"{block}.norm1.weight"] == (c,)
  assert shapes[f"{block}.attn.qkv.weight"] == (3 * c, c)
  assert shapes[f"{block}.attn.qkv.bias"] == (3 * c,)
  assert shapes[f"{block}.mlp.fc1.weight"] == (2 * c, c)
  assert shapes[f"{classifier}.weight"][0] == tiny.CLASSES


def official_keys():
  """The state dict of the official B/16 Kinetics-400 model, key by key."""

  def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

  def block(name, *, qkv_bias=True):
    result = {
      **pair(f"{name}.norm1", 768),
      **pair(f"{name}.attn.qkv", 2304, 768),
      **pair(f"{name}.attn.proj", 768, 768),
      **pair(f"{name}.norm2", 768),
      **pair(f"{name}.mlp.fc1", 3072, 768),
      **pair(f"{name}.mlp.fc2", 768, 3072),
    }
    if not qkv_bias:
      del result[f"{name}.attn.qkv.bias"]
    return result

  result = {
    "base_model.cls_token": (1, 1, 768),
    "base_model.pos_embed": (1, 197, 768),
    "base_model.temp_embed": (1, 8, 1, 768),
    **pair("base_model.patch_embed.proj", 768, 3, 16, 16),
    **pair("base_model.norm", 768),
    **pair("new_fc", 400, 768),
    "consensus.cls_token": (1, 1, 768),
    **block("consensus.temporal_encoder.0", qkv_bias=False),
    **pair("consensus.mlp_head.0", 768),
    **pair("consensus.mlp_head.1", 768, 768),
    **pair("consensus.mlp_head.4", 400, 768),
  }
  for i in range(12):
    result |= block(f"base_model.blocks.{i}")
  return result


def test_the_full_size_model_has_the_official_keys():
  shapes = official_keys()
  assert len(shapes) == 171
  model = zeros(nnx.eval_shape(lambda: create_model("xvit_b16_k400")))
  state = official_state(model)
  assert {key: value.shape for key, value in state.items()} == shapes


def test_golden_weights_round_trip(shared):
  """Values move to the right place: transposes, patches, squeezes."""
  case = read_case(shared / "golden/xvit/tiny_ta_div8.npz")
  official = case.under("w/")
  model = parity_xvit.build(case.official)
  table = layout_of(model).table
  params = table.load(official, split(model)[1])
  kernel = params["blocks"]["2"]["attention"]["qkv"]["kernel"]
  weight = official["base_model.blocks.2.attn.qkv.weight"]
  np.testing.assert_array_equal(kernel[3], weight[:, 3])
  patches = params["patch_embed"]["proj"]["kernel"]
  weight = official["base_model.patch_embed.proj.weight"]
  row, column, colour = 2, 5, 1  # a pixel of the 8 x 8 patch
  np.testing.assert_array_equal(
    patches[(row * 8 + column) * 3 + colour], weight[:, colour, row, column]
  )
  exported = table.export(params)
  dropped = {key for key in official if key.startswith("new_fc.")}
  assert exported.keys() == official.keys() - dropped
  for key, value in exported.items():
    np.testing.assert_array_equal(value, official[key], err_msg=key)


def test_new_fc_is_ignored_with_temporal_attention_only():
  params = parameters(TA)
  source = xvit.TEMPORAL_ATTENTION.export(params)
  source["new_fc.weight"] = np.zeros((99, 99))
  source["new_fc.bias"] = np.zeros(99)
  assert_equal(xvit.TEMPORAL_ATTENTION.load(source, params), params)
  average = parameters(tiny.AVERAGE)
  source = xvit.AVERAGE_WITHOUT_DROPOUT.export(average)
  source["new_fc.bias"] = np.zeros(5)
  with pytest.raises(WeightsError, match=r"unknown key new_fc\.bias"):
    xvit.AVERAGE_WITHOUT_DROPOUT.load(source, average)


def faults(table, source, template):
  with pytest.raises(WeightsError) as error:
    table.load(source, template)
  heading, *lines = str(error.value).splitlines()
  assert heading == (
    "the weights do not fit this model; check its name and options:"
  )
  return [line.strip() for line in lines]


def test_one_error_lists_every_fault():
  params = parameters(TA)
  table = xvit.TEMPORAL_ATTENTION
  source = table.export(params)
  source["optimizer.step"] = np.zeros(())  # unknown
  source["base_model.blocks.x.norm1.weight"] = np.zeros(24)  # no number
  del source["base_model.norm.bias"]  # missing
  del source["base_model.blocks.0.mlp.fc1.weight"]
  source["consensus.mlp_head.4.weight"] = np.zeros((400, 10))  # mis-shaped
  source["base_model.temp_embed"] = np.zeros((1, 16, 1, 24))
  source["base_model.blocks.7.norm1.bias"] = np.zeros(24)  # no such block
  assert sorted(faults(table, source, params)) == sorted(
    [
      "unknown key optimizer.step ()",
      "unknown key base_model.blocks.x.norm1.weight (24,)",
      "nothing fills norm/bias (24,)",
      "nothing fills blocks/0/mlp/fc1/kernel (24, 48)",
      "consensus.mlp_head.4.weight (400, 10) gives head/fc2/kernel (10, 400), "
      "but the model has (10, 5)",
      "base_model.temp_embed (1, 16, 1, 24) gives temporal_position (16, 24), "
      "but the model has (8, 24)",
      "base_model.blocks.7.norm1.bias (24,) belongs to blocks/7/norm1/bias, "
      "which this model lacks",
    ]
  )


def test_an_empty_state_dict_misses_everything():
  params = parameters(tiny.AVERAGE)
  lines = faults(xvit.AVERAGE, {}, params)
  assert len(lines) == len(jax.tree.leaves(params))
  assert all(line.startswith("nothing fills ") for line in lines)


def test_a_missing_path_that_ends_another_faulty_path_is_listed():
  params = parameters(TA)
  table = xvit.TEMPORAL_ATTENTION
  source = table.export(params)
  # "blocks/0/norm1/scale" is a part of "head/blocks/0/norm1/scale", and
  # "position" of "temporal_position".
  del source["base_model.blocks.0.norm1.weight"]
  source["consensus.temporal_encoder.0.norm1.weight"] = np.zeros(25)
  del source["base_model.pos_embed"]
  source["base_model.temp_embed"] = np.zeros((1, 16, 1, 24))
  lines = faults(table, source, params)
  assert "nothing fills blocks/0/norm1/scale (24,)" in lines
  assert "nothing fills position (17, 24)" in lines
  assert len(lines) == 4


@pytest.mark.parametrize(
  ("key", "shape"),
  [
    ("base_model.cls_token", (24,)),
    ("base_model.pos_embed", (2, 17, 24)),
    ("base_model.patch_embed.proj.weight", (24, 192)),
  ],
)
def test_an_array_of_another_rank_is_a_fault_like_others(key, shape):
  params = parameters(tiny.AVERAGE)
  source = xvit.AVERAGE.export(params)
  source[key] = np.zeros(shape)
  (line,) = faults(xvit.AVERAGE, source, params)
  assert line.startswith(f"{key} ")


def test_values_take_the_dtype_of_the_model():
  params = parameters(tiny.AVERAGE)
  source = xvit.AVERAGE.export(params)
  source = {key: value.astype(np.float64) for key, value in source.items()}
  assert_equal(xvit.AVERAGE.load(source, params), params)


def test_loaded_weights_run():
  head = tiny.AVERAGE
  model = tiny.vit(temporal=MIXING, head=head)
  definition, params, stats = split(model)
  source = xvit.AVERAGE.export(jax.device_get(params))
  loaded = xvit.AVERAGE.load(source, params)
  again = merge(definition, jax.tree.map(jnp.asarray, loaded), stats)
  np.testing.assert_array_equal(
    oracles.call(again, tiny.video()), oracles.call(model, tiny.video())
  )


def test_export_of_an_unknown_parameter():
  with pytest.raises(WeightsError, match="parameter a/extra has no official"):
    xvit.AVERAGE.export({"a": {"extra": np.zeros(3, np.float32)}})


def test_divided_attention_has_no_official_keys():
  model = tiny.vit(temporal={"op": "divided"})
  with pytest.raises(
    WeightsError, match=r"parameter blocks/\d/temporal/.* has"
  ):
    xvit.AVERAGE.export(jax.device_get(split(model)[1]))


def test_rules():
  rule = Rule("stage.{}.block.{}.w", "stages/{}/blocks/{}/kernel", LINEAR)
  assert rule.match("stage.1.block.23.w") == "stages/1/blocks/23/kernel"
  assert rule.match("stage.1.block.w") is None
  assert rule.match("stage.1.block.2.w2") is None
  assert rule.match("stageX1.block.2.w") is None  # a dot is a dot
  assert rule.reverse("stages/1/blocks/23/kernel") == "stage.1.block.23.w"
  assert rule.reverse("stages/1/kernel") is None


def test_table_targets():
  table = KeyTable([Rule("a.{}", "b/{}")], [Ignored(r"junk\..*", "a counter")])
  assert table.target("a.3") == ("b/3", SAME)
  assert table.target("junk.3") is None
  with pytest.raises(KeyError, match=r"a\.x"):
    table.target("a.x")
  with pytest.raises(KeyError, match="my junk"):
    table.target("my junk.3")


def test_two_keys_of_one_array_are_a_fault():
  params = parameters(tiny.AVERAGE)
  source = xvit.AVERAGE.export(params)
  source["other.bias"] = source["new_fc.bias"]
  rules = [*xvit.AVERAGE.rules, Rule("other.bias", "head/fc/bias")]
  (line,) = faults(KeyTable(rules), source, params)
  assert line == "other.bias (5,) gives head/fc/bias, which another key gives"


@pytest.mark.parametrize(
  ("transform", "official", "ours"),
  [
    (SAME, (3, 4), (3, 4)),
    (LINEAR, (5, 4), (4, 5)),
    (LINEAR, (5,), (5,)),
    (PATCHES, (7, 3, 4, 4), (48, 7)),
    (squeeze(0), (1, 9, 4), (9, 4)),
    (squeeze(0, 2), (1, 8, 1, 4), (8, 4)),
    (transforms.patch_conv(2), (7, 5, 2, 2), (20, 7)),
    (transforms.tubes(4), (7, 3, 2, 4, 4), (96, 7)),
    (transforms.tubes(2), (5, 3, 1, 2, 2), (12, 5)),
    (transforms.bias_table(7), (31 * 169, 3), (31, 13, 13, 3)),
    (transforms.bias_table(3), (25, 2), (1, 5, 5, 2)),
    (transforms.CONV, (5, 2, 3, 3), (3, 3, 2, 5)),
    (transforms.POINTWISE, (5, 2, 1, 1), (2, 5)),
    (transforms.MAP, (1, 5, 3, 2), (3, 2, 5)),
    (transforms.FRAME_CONV, (5, 2, 1, 3, 3), (3, 3, 2, 5)),
    (transforms.FRAME_POINTWISE, (5, 2, 1, 1, 1), (2, 5)),
    (transforms.STEM, (5, 3, 4, 7, 7), (7, 7, 12, 5)),
    (transforms.THREE_FRAMES, (5, 2, 1, 3), (6, 5)),
    (transforms.FRAMES_POINTWISE, (5, 2, 3, 1, 1), (6, 5)),
  ],
)
def test_transforms_are_invertible(transform, official, ours):
  x = oracles.normal(*official)
  y = transform.forward(x)
  assert y.shape == ours
  np.testing.assert_array_equal(transform.inverse(y), x)


def test_taps_and_colours_lie_where_the_models_read_them():
  x = oracles.normal(5, 3, 4, 7, 7)  # row, column, frame and colour, output
  stem = transforms.STEM.forward(x)
  assert stem[5, 6, 2 * 3 + 1, 4] == x[4, 1, 2, 5, 6]
  x = oracles.normal(5, 2, 1, 3)  # tap and channel, output
  assert transforms.THREE_FRAMES.forward(x)[2 * 2 + 1, 3] == x[3, 1, 0, 2]
  x = oracles.normal(5, 2, 3, 1, 1)
  taps = transforms.FRAMES_POINTWISE.forward(x)
  assert taps[2 * 2 + 1, 3] == x[3, 1, 2, 0, 0]


def test_transform_names_tell_their_sizes():
  assert squeeze(0, 2).name == "squeeze(0, 2)"
  assert LINEAR.name == "transpose"
  assert transforms.tubes(4).name == "tubes(4)"
  assert transforms.bias_table(7).name == "bias_table(7)"
