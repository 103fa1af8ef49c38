import jax
import numpy as np
import pytest
from flax import nnx, traverse_util

from tests import oracles
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.functional import split
from vidjax.weights.entries import entries
from vidjax.weights.keys import WeightsError, load
from vidjax.weights.laps import VISFORMER, VIT, official_keys

IMAGE = 48  # maps of 6 x 6, 3 x 3 and 1 x 1
SIZE = {
  "image_size": IMAGE,
  "stem_width": 4,
  "dim": 16,
  "depths": (2, 1, 1),
  "heads": 2,
  "conv_groups": 4,
  "temporal": {"op": "none"},
}


def flatten(tree):
  return traverse_util.flatten_dict(tree, sep="/")


def state():
  """Parameters and statistics of a tiny Visformer, all of them random."""
  _, params, stats = split(oracles.build(Visformer, 5, **SIZE))
  rng = np.random.default_rng(1)
  stats = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), stats)
  return jax.device_get(params), stats


def export(params, stats):
  return VISFORMER.export(params) | VISFORMER.export(stats)


def test_visformer_round_trip_is_exact():
  params, stats = state()
  exported = export(params, stats)
  loaded = load(VISFORMER, exported, params, stats)
  for ours, want in zip(loaded, (params, stats), strict=True):
    assert flatten(ours).keys() == flatten(want).keys()
    for path, leaf in flatten(want).items():
      np.testing.assert_array_equal(flatten(ours)[path], leaf, err_msg=path)


def test_layouts():
  params, stats = state()
  exported = export(params, stats)
  stage = params["stages"]["1"]
  mlp = params["stages"]["0"]["blocks"]["1"]["mlp"]
  assert exported["base_model.stage1.1.mlp.conv2.weight"].shape == (16, 4, 3, 3)
  for o, i, p, q in np.ndindex(16, 4, 3, 3):
    weight = exported["base_model.stage1.1.mlp.conv2.weight"][o, i, p, q]
    assert weight == mlp["conv2"]["kernel"][p, q, i, o]
  for o, i, p, q in np.ndindex(16, 8, 2, 2):  # patches row by row
    weight = exported["base_model.patch_embed2.proj.weight"][o, i, p, q]
    assert weight == stage["embed"]["proj"]["kernel"][(2 * p + q) * 8 + i, o]
  qkv = exported["base_model.stage2.0.attn.qkv.weight"]
  np.testing.assert_array_equal(
    qkv[:, :, 0, 0], stage["blocks"]["0"]["attention"]["qkv"]["kernel"].T
  )
  np.testing.assert_array_equal(
    exported["base_model.pos_embed2"][0].transpose(1, 2, 0), stage["position"]
  )
  np.testing.assert_array_equal(
    exported["base_model.norm.bn.running_var"], stats["norm"]["var"]
  )


def test_small_has_the_official_keys():
  model = nnx.eval_shape(
    lambda: Visformer(400, temporal={"op": "none"}, rngs=nnx.Rngs(0))
  )
  _, params, stats = split(model)
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (params, stats))
  shapes = {name: x.shape for name, x in export(*zeros).items()}
  # 205 tensors: a batch norm has 5 there, one of them a counter.
  norms = sum(name.endswith("running_var") for name in shapes)
  assert len(shapes) + norms == 205
  assert shapes["base_model.stage1.6.mlp.conv2.weight"] == (384, 48, 3, 3)
  assert shapes["base_model.stage3.3.mlp.conv1.weight"] == (3072, 768, 1, 1)
  assert shapes["base_model.patch_embed1.proj.weight"] == (192, 32, 4, 4)
  assert shapes["base_model.pos_embed3"] == (1, 768, 7, 7)
  assert shapes["base_model.head.weight"] == (400, 768)


def test_other_sources_have_the_same_keys():
  params, stats = state()
  exported = export(params, stats)
  bare = {name.removeprefix("base_model."): x for name, x in exported.items()}
  timm = {name.replace(".bn.", "."): x for name, x in bare.items()}
  assert "stem.1.running_mean" in timm
  assert "stage2.0.norm1.weight" in timm
  for source in (exported, bare, timm):
    renamed = official_keys(entries(source))
    assert renamed.keys() == exported.keys()
    for name, entry in renamed.items():
      assert entry.value is exported[name]


def test_counters_are_ignored_and_the_rest_is_strict():
  params, stats = state()
  exported = export(params, stats)
  exported["base_model.norm.bn.num_batches_tracked"] = np.array(7)
  load(VISFORMER, exported, params, stats)
  del exported["base_model.stem.1.bn.running_mean"]
  exported["base_model.stage4.0.norm1.bn.weight"] = np.zeros(3)
  with pytest.raises(WeightsError) as caught:
    load(VISFORMER, exported, params, stats)
  assert "nothing fills stem/norm/mean" in str(caught.value)
  assert "unknown key base_model.stage4.0.norm1.bn.weight" in str(caught.value)


def test_vit_round_trip_is_exact():
  model = oracles.build(
    ViT,
    5,
    image_size=32,
    dim=24,
    depth=2,
    heads=3,
    temporal={"op": "token_shift"},
    temporal_positions=0,
    head={"kind": "average"},
  )
  _, params, stats = split(model)
  assert not stats
  params = jax.device_get(params)
  exported = VIT.export(params)
  assert exported["base_model.patch_embed.proj.weight"].shape == (24, 3, 16, 16)
  assert exported["base_model.pos_embed"].shape == (1, 5, 24)
  loaded, _ = load(VIT, exported, params, stats)
  for path, leaf in flatten(params).items():
    np.testing.assert_array_equal(flatten(loaded)[path], leaf, err_msg=path)
