import jax
import numpy as np
import pytest
from flax import nnx, traverse_util

from tests import oracles
from vidjax.models.sifa_models import SIFA_MODELS
from vidjax.nn.functional import split
from vidjax.tools import parity_sifa
from vidjax.tools.golden import read_case
from vidjax.weights import sifa
from vidjax.weights.keys import WeightsError
from vidjax.weights.sifa import RESNET, load, swin_table

NET, SWIN = "net_tiny_seed0", "swin_tiny_seed0"


def stored(shared, name):
  return read_case(shared / "golden" / "sifa" / f"{name}.npz")


def template(case):
  model = (
    parity_sifa.build_net(case.official, sifa=True)
    if case.kind == "sifa_net"
    else parity_sifa.build_swin(case.official)
  )
  return split(model)[1:]


def table_of(case):
  if case.kind == "sifa_net":
    return RESNET
  return swin_table(case.official["window_size"])


def official_resnet(depths, dim, classes, frames):
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
    ("sifa_r50_16f_k400", official_resnet(R50, 64, 400, 16), 432),
    ("sifa_r101_16f_k400", official_resnet(R101, 64, 400, 16), 790),
    ("sifa_swin_s_16f_k400", official_swin(DEPTHS, 96, HEADS, 400), 458),
  ],
)
def test_all_official_keys_fill_the_full_size_model(name, official, entries):
  shapes, constants = official
  assert len(shapes) + len(constants) == entries
  table = swin_table() if "swin" in name else RESNET
  spec = SIFA_MODELS[name]
  model = nnx.eval_shape(
    lambda: spec.backbone(**spec.options, rngs=nnx.Rngs(0))
  )
  wanted = {}
  for tree in split(model)[1:]:
    wanted |= traverse_util.flatten_dict(tree, sep="/")
  filled = set()
  for key, shape in shapes.items():
    found = table.target(key)
    assert found is not None, key
    path, transform = found
    # A zero without memory: only the layout matters.
    value = transform.forward(np.broadcast_to(np.float32(0), shape))
    assert value.shape == wanted[path].shape, key
    filled.add(path)
  assert filled == wanted.keys()
  assert all(table.target(key) is None for key in constants)


@pytest.mark.parametrize("name", [NET, SWIN])
def test_round_trip(name, shared):
  case = stored(shared, name)
  official = case.under("w/")
  table = table_of(case)
  params, stats = load(table, official, *template(case))
  exported = table.export(jax.device_get(params))
  exported |= table.export(jax.device_get(stats))
  constants = {key for key in official if table.target(key) is None}
  assert exported.keys() == official.keys() - constants
  for key, value in exported.items():
    np.testing.assert_array_equal(value, official[key], err_msg=key)
  prefixed = {f"module.{key}": value for key, value in official.items()}
  jax.tree.map(
    np.testing.assert_array_equal,
    load(table, prefixed, *template(case)),
    (params, stats),
  )


@pytest.mark.parametrize(
  "transform", [sifa.CONV, sifa.POINTWISE, sifa.STEM, sifa.THREE_FRAMES]
)
def test_transforms_keep_every_tap(transform):
  shapes = {
    "conv": (5, 2, 1, 3, 3),
    "pointwise": (5, 2, 1, 1, 1),
    "stem": (5, 3, 4, 7, 7),
    "three_frames": (5, 2, 1, 3),
  }
  x = oracles.normal(*shapes[transform.name])
  y = transform.forward(x)
  np.testing.assert_array_equal(transform.inverse(y), x)
  if transform.name == "stem":  # row, column, frame and colour, output
    assert y[5, 6, 2 * 3 + 1, 4] == x[4, 1, 2, 5, 6]
  if transform.name == "three_frames":
    assert y[2 * 2 + 1, 3] == x[3, 1, 0, 2]


def test_other_correlations_are_refused(shared):
  case = stored(shared, NET)
  source = case.under("w/")
  key = "layer3.1.def_cor.weight"
  source[key] = source[key] * np.float32(2)
  with pytest.raises(WeightsError, match=r"layer3\.1\.def_cor\.weight is not"):
    load(RESNET, source, *template(case))


def test_faults_are_listed(shared):
  case = stored(shared, NET)
  source = case.under("w/")
  del source["fc_dual.bias"]
  source["layer5.weight"] = np.zeros(3)
  with pytest.raises(WeightsError) as error:
    load(RESNET, source, *template(case))
  assert sorted(line.strip() for line in str(error.value).splitlines()[1:]) == [
    "nothing fills dual_head/fc/bias (11,)",
    "unknown key layer5.weight (3,)",
  ]


def test_only_the_third_of_four_frames_is_seen_at_the_start():
  weight = oracles.normal(2, 3, 7, 7)
  video = sifa.inflate_resnet({"conv1.weight": weight})["conv1.weight"]
  assert video.shape == (2, 3, 4, 7, 7)
  np.testing.assert_array_equal(video[:, :, 2], weight)
  assert not video[:, :, [0, 1, 3]].any()
