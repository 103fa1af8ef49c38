import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.weights.sources import zeros
from vidjax.models.registry import create_model
from vidjax.tools import parity_sifa
from vidjax.tools.golden import read_case
from vidjax.weights.convert import convert, official_state
from vidjax.weights.entries import entries
from vidjax.weights.keys import WeightsError
from vidjax.weights.sifa import inflate_resnet, inflate_swin, resnet_table

NET = "net_tiny_seed0"


def stored(shared, name):
  return read_case(shared / "golden" / "sifa" / f"{name}.npz")


def model_of(case):
  if case.kind == "sifa_net":
    return parity_sifa.build_net(case.official, sifa=True)
  return parity_sifa.build_swin(case.official)


def official_resnet(depths, dim, classes):
  """Official keys and shapes, key by key; and the constants' names."""
  shapes, constants = {}, []

  def norm(name, c):
    for part in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{name}.{part}"] = (c,)
    constants.append(f"{name}.num_batches_tracked")

  shapes["conv1.weight"] = (dim, 3, 4, 7, 7)
  norm("bn1", dim)
  names = ["layer1", "layer2", "layer3", "layer4", "layer4_dual"]
  for name, stage in zip(names, (0, 1, 2, 3, 3), strict=True):
    p = dim * 2**stage
    e = 4 * p
    for place in range(depths[stage]):
      block = f"{name}.{place}"
      enters = e if place else (e // 2 if stage else dim)
      shapes[f"{block}.conv1.weight"] = (p, enters, 1, 1, 1)
      shapes[f"{block}.conv2.weight"] = (p, p, 1, 3, 3)
      shapes[f"{block}.conv3.weight"] = (e, p, 1, 1, 1)
      for number, c in ((1, p), (2, p), (3, e)):
        norm(f"{block}.bn{number}", c)
      if not place:
        shapes[f"{block}.downsample.0.weight"] = (e, enters, 1, 1, 1)
        norm(f"{block}.downsample.1", e)
      if stage and place % 2:
        shapes[f"{block}.conv_offset.weight"] = (18, p, 1, 3, 3)
        constants.append(f"{block}.def_cor.weight")
      elif stage:
        shapes[f"{block}.fc1.weight"] = (e // 16, e)
        shapes[f"{block}.fc1.bias"] = (e // 16,)
        shapes[f"{block}.fc2.weight"] = (e, e // 16)
        shapes[f"{block}.fc2.bias"] = (e,)
  for head in ("fc", "fc_dual"):
    shapes[f"{head}.weight"] = (classes, 32 * dim)
    shapes[f"{head}.bias"] = (classes,)
  return shapes, constants


def official_swin(depths, dim, heads, classes):
  def pair(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

  out = dim * 2 ** (len(depths) - 1)
  shapes = {
    **pair("patch_embed.proj", dim, 3, 4, 4, 4),
    **pair("norm", out),
    **pair("fc", classes, out),
  }
  constants = []
  for stage, (depth, g) in enumerate(zip(depths, heads, strict=True)):
    c = dim * 2**stage
    for place in range(depth):
      block = f"layers.{stage}.blocks.{place}"
      shapes |= {
        **pair(f"{block}.norm1", c),
        **pair(f"{block}.norm2", c),
        **pair(f"{block}.tda_norm", c),
        f"{block}.attn.relative_position_bias_table": (169, g),
        **pair(f"{block}.attn.qkv", 3 * c, c),
        **pair(f"{block}.attn.proj", c, c),
        **pair(f"{block}.mlp.fc1", 4 * c, c),
        **pair(f"{block}.mlp.fc2", c, 4 * c),
        f"{block}.conv.weight": (c, c, 1, 3),
      }
      constants.append(f"{block}.attn.relative_position_index")
      constants.append(f"{block}.def_cor.weight")
      if place % 2 and stage < 3:
        constants.append(f"{block}.attn_mask")
    if stage < len(depths) - 1:
      merging = f"layers.{stage}.downsample"
      shapes |= pair(f"{merging}.norm", 4 * c)
      shapes[f"{merging}.reduction.weight"] = (2 * c, 4 * c)
  return shapes, constants


R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)
DEPTHS, HEADS = (2, 2, 18, 2), (3, 6, 12, 24)


@pytest.mark.parametrize(
  ("name", "official", "entries"),
  [
    ("sifa_r50_16f_k400", official_resnet(R50, 64, 400), 432),
    pytest.param(
      "sifa_r101_16f_k400",
      official_resnet(R101, 64, 400),
      790,
      marks=pytest.mark.slow,
    ),
    ("sifa_swin_s_16f_k400", official_swin(DEPTHS, 96, HEADS, 400), 458),
  ],
)
def test_full_size_models_have_the_official_keys(name, official, entries):
  shapes, constants = official
  assert len(shapes) + len(constants) == entries
  model = zeros(nnx.eval_shape(lambda: create_model(name)))
  state = official_state(model, frames=16)
  assert state.keys() == shapes.keys() | set(constants)
  for key, shape in shapes.items():
    assert state[key].shape == shape, key
  known = {
    "bn1.num_batches_tracked": (),
    "layer3.1.def_cor.weight": (256, 4, 3, 3),
    "layer4_dual.1.def_cor.weight": (512, 2, 3, 3),
    "layers.0.blocks.1.attn_mask": (64, 49, 49),
    "layers.2.blocks.3.attn.relative_position_index": (49, 49),
    "layers.2.blocks.3.def_cor.weight": (384, 4, 3, 3),
  }
  found = known.keys() & state.keys()
  assert len(found) == 3
  assert all(state[key].shape == known[key] for key in found)


@pytest.mark.parametrize("factor", [1, 2])
def test_other_correlations_are_refused(factor, shared):
  case = stored(shared, NET)
  source = case.under("w/")
  key = "layer3.1.def_cor.weight"
  source[key] = source[key] * np.float32(factor)
  if factor == 1:
    convert(source, model_of(case))
    return
  with pytest.raises(WeightsError, match=r"layer3\.1\.def_cor\.weight is not"):
    convert(source, model_of(case))


def test_faults_are_listed(shared):
  case = stored(shared, NET)
  source = case.under("w/")
  del source["fc_dual.bias"]
  source["layer5.weight"] = np.zeros(3)
  with pytest.raises(WeightsError) as error:
    convert(source, model_of(case))
  assert sorted(line.strip() for line in str(error.value).splitlines()[1:]) == [
    "nothing fills dual_head/fc/bias (11,) (new_head=True keeps the model's "
    "own classifier)",
    "unknown key layer5.weight (3,)",
  ]


def test_only_the_third_of_four_frames_is_seen_at_the_start():
  weight = oracles.normal(2, 3, 7, 7)
  video = inflate_resnet(entries({"conv1.weight": weight}))["conv1.weight"]
  assert video.value.shape == (2, 3, 4, 7, 7)
  assert video.changes == ("third frame of 4",)
  np.testing.assert_array_equal(video.value[:, :, 2], weight)
  assert not video.value[:, :, [0, 1, 3]].any()


def test_convolutions_of_three_frames_start_with_the_middle_one():
  blocks = ["layer4.1", "layer4_dual.1"]
  weight = oracles.normal(4, 2, 1, 1)
  state = entries({f"layer4.{i}.conv1.weight": weight for i in (0, 1)})
  video = inflate_resnet(state, three_frames=blocks)
  table = resnet_table(blocks)
  for stage, ours in (("layer4", "stages/3"), ("layer4_dual", "dual_stage")):
    plain = video[f"{stage}.0.conv1.weight"].value
    np.testing.assert_array_equal(plain, weight[:, :, None])
    key = f"{stage}.1.conv1.weight"
    path, transform = table.target(key)
    assert path == f"{ours}/1/conv1/kernel"
    kernel = transform.forward(video[key].value)
    np.testing.assert_array_equal(kernel[2:4], weight[:, :, 0, 0].T)
    assert not kernel[:2].any()
    assert not kernel[4:].any()
  assert inflate_resnet(state, dual=False).keys() == state.keys()


def test_a_swin_starts_with_zeros_in_time():
  state = entries(
    {
      "layers.0.blocks.1.mlp.fc1.weight": oracles.normal(16, 4),
      "patch_embed.norm.bias": oracles.normal(4),
    }
  )
  video = inflate_swin(state)
  made = video["layers.0.blocks.1.conv.weight"]
  assert made.keys == ()
  assert made.value.shape == (4, 4, 1, 3)
  assert not made.value.any()
  assert "no norm" in video["patch_embed.norm.bias"].unused
