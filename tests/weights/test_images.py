"""Starts from image weights and from other video models."""

import functools
import re

import jax
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from tests.weights.sources import abstract, assert_same, filled
from vidjax.models.resnet import ResNet
from vidjax.models.swin import Swin
from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.weights.convert import convert, official_state
from vidjax.weights.keys import WeightsError, flat
from vidjax.weights.vit import sinusoids

NONE, AVERAGE = {"op": "none"}, {"kind": "average"}
C, G, P = 24, 3, 8
VIT = {
  "image_size": 32,
  "patch_size": P,
  "dim": C,
  "depth": 2,
  "heads": G,
  "head": AVERAGE,
}
FRAMES = {"temporal": NONE, "temporal_positions": 0}
SWIN = {
  "image_size": 28,
  "patch_size": (1, 2, 2),
  "dim": 16,
  "depths": (2, 2),
  "heads": (2, 4),
  "window": (1, 7, 7),
  "bias_frames": 1,
  "temporal": NONE,
}
RESNET = {"dim": 4, "depths": (1, 2, 1, 2), "image_size": 32}


@functools.cache
def image_vit():
  return filled(abstract(ViT, 5, **VIT | FRAMES))


def timm_vit():
  """Its state dict by timm's names."""
  state = official_state(image_vit())
  return {key.removeprefix("base_model."): x for key, x in state.items()}


def jax_vit():
  """The same as a JAX file has it, put together array by array."""
  _, params, _ = split(image_vit())
  params = jax.device_get(params)
  state = {
    "cls": params["class_token"].reshape(1, 1, C),
    "Transformer/posembed_input/pos_embedding": params["position"][None],
    "embedding/kernel": params["patch_embed"]["proj"]["kernel"].reshape(
      P, P, 3, C
    ),
    "embedding/bias": params["patch_embed"]["proj"]["bias"],
    "Transformer/encoder_norm/scale": params["norm"]["scale"],
    "Transformer/encoder_norm/bias": params["norm"]["bias"],
    "head/kernel": params["head"]["fc"]["kernel"],
    "head/bias": params["head"]["fc"]["bias"],
  }
  for i, block in params["blocks"].items():
    name = f"Transformer/encoderblock_{i}"
    attention = f"{name}/MultiHeadDotProductAttention_1"
    qkv = block["attention"]["qkv"]
    for j, letter in enumerate(("query", "key", "value")):
      part = slice(j * C, (j + 1) * C)
      kernel = qkv["kernel"][:, part]
      state[f"{attention}/{letter}/kernel"] = kernel.reshape(C, G, C // G)
      state[f"{attention}/{letter}/bias"] = qkv["bias"][part].reshape(G, -1)
    proj = block["attention"]["proj"]
    state[f"{attention}/out/kernel"] = proj["kernel"].reshape(G, C // G, C)
    state[f"{attention}/out/bias"] = proj["bias"]
    for number, norm in ((0, "norm1"), (2, "norm2")):
      for part in ("scale", "bias"):
        state[f"{name}/LayerNorm_{number}/{part}"] = block[norm][part]
    for number, layer in ((0, "fc1"), (1, "fc2")):
      for part in ("kernel", "bias"):
        key = f"{name}/MlpBlock_3/Dense_{number}/{part}"
        state[key] = block["mlp"][layer][part]
  return state


def test_names_of_timm():
  converted = convert(timm_vit(), image_vit())
  assert_same(converted, image_vit())
  assert converted.report.family == "vit"


def test_names_of_jax():
  converted = convert(jax_vit(), image_vit())
  assert_same(converted, image_vit())
  report = converted.report
  assert report.family == "vit_npz"
  path = "blocks/0/attention/qkv/kernel"
  (row,) = [row for row in report.rows if row.path == path]
  assert row.source == ", ".join(
    f"Transformer/encoderblock_0/MultiHeadDotProductAttention_1/{name}/kernel"
    for name in ("query", "key", "value")
  )
  assert row.shape == (C, G, C // G)
  assert row.transform == "heads, q, k, v, transpose"


def test_a_jax_file_without_keys_or_of_other_heads():
  state = jax_vit()
  gone = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias"
  del state[gone]
  with pytest.raises(WeightsError) as error:
    convert(state, image_vit())
  assert error.match(f"unknown key {gone.replace('key', 'query')}")
  assert error.match(r"nothing fills blocks/1/attention/qkv/bias")
  other = filled(abstract(ViT, 5, **VIT | FRAMES | {"heads": 4}))
  with pytest.raises(WeightsError) as error:
    convert(jax_vit(), other)
  assert error.match(r"query/bias, .*/value/bias \(3, 8\) gives blocks/0/atten")


@pytest.mark.parametrize("make", [timm_vit, jax_vit])
def test_xvit_starts_from_images(make):
  """The backbone's weights; time, and attention over it, are its own."""
  state = make()
  ours = filled(abstract(ViT, 7, **VIT | {"head": tiny.ATTENTION}), seed=1)
  with pytest.raises(WeightsError, match=r"head/fc2/bias .* \(new_head=True"):
    convert(state, ours)
  converted = convert(state, ours, new_head=True)
  got, own = flat(converted.params), flat(split(ours)[1])
  image = flat(split(image_vit())[1])
  fresh = dict(converted.report.fresh)
  assert fresh["temporal_position"] == "images have no time"
  for path, value in got.items():
    if path in fresh:
      assert path.startswith("head/") or path == "temporal_position"
      np.testing.assert_array_equal(value, own[path])
    else:
      np.testing.assert_array_equal(value, image[path])
  heads = [key for key, _ in converted.report.ignored]
  assert sorted(heads) == sorted(key for key in state if key[:4] == "head")


def test_pre_logits_are_left_out_with_the_classifier_on_them():
  state = timm_vit() | {
    "pre_logits.fc.weight": np.zeros((C, C), np.float32),
    "pre_logits.fc.bias": np.zeros(C, np.float32),
  }
  with pytest.raises(WeightsError, match="nothing fills head/fc/kernel"):
    convert(state, image_vit())
  report = convert(state, image_vit(), new_head=True).report
  assert dict(report.ignored).keys() == {
    "pre_logits.fc.weight",
    "pre_logits.fc.bias",
    "head.weight",
    "head.bias",
  }


def test_timesformer_starts_with_its_spatial_attention():
  ours = filled(abstract(ViT, 5, **VIT | {"temporal": {"op": "divided"}}))
  converted = convert(timm_vit(), ours)
  fresh = dict(converted.report.fresh)
  assert fresh.keys() == {"temporal_position"} | {
    f"blocks/{i}/temporal/fc/{part}"
    for i in range(2)
    for part in ("kernel", "bias")
  }
  params = flat(converted.params)
  for path, value in params.items():
    if "/temporal/" in path and path not in fresh:
      spatial = path.replace("temporal/norm", "norm1")
      spatial = spatial.replace("temporal/attention", "attention")
      np.testing.assert_array_equal(value, params[spatial])


def timesformer():
  """Official names, written out."""
  rng = np.random.default_rng(2)

  def pair(name, *shape):
    return {
      f"{name}.weight": rng.normal(size=shape).astype("f4"),
      f"{name}.bias": rng.normal(size=shape[:1]).astype("f4"),
    }

  state = {
    "model.cls_token": oracles.normal(1, 1, C),
    "model.pos_embed": oracles.normal(1, 17, C),
    "model.time_embed": oracles.normal(1, 8, C),
    **pair("model.patch_embed.proj", C, 3, P, P),
    **pair("model.norm", C),
    **pair("model.head", 5, C),
  }
  for i in range(2):
    block = f"model.blocks.{i}"
    state |= {
      **pair(f"{block}.norm1", C),
      **pair(f"{block}.attn.qkv", 3 * C, C),
      **pair(f"{block}.attn.proj", C, C),
      **pair(f"{block}.temporal_norm1", C),
      **pair(f"{block}.temporal_attn.qkv", 3 * C, C),
      **pair(f"{block}.temporal_attn.proj", C, C),
      **pair(f"{block}.temporal_fc", C, C),
      **pair(f"{block}.norm2", C),
      **pair(f"{block}.mlp.fc1", 4 * C, C),
      **pair(f"{block}.mlp.fc2", C, 4 * C),
    }
  return state


def test_timesformer():
  ours = abstract(ViT, 5, **VIT | {"temporal": {"op": "divided"}})
  state = timesformer()
  converted = convert(state, ours)
  assert converted.report.family == "timesformer"
  assert not converted.report.ignored
  block = converted.params["blocks"]["1"]["temporal"]
  np.testing.assert_array_equal(
    block["attention"]["qkv"]["kernel"],
    state["model.blocks.1.temporal_attn.qkv.weight"].T,
  )
  np.testing.assert_array_equal(
    block["fc"]["bias"], state["model.blocks.1.temporal_fc.bias"]
  )
  model = merge(split(ours)[0], converted.params, converted.stats)
  again = official_state(model)
  assert again.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(again[key], value)
  bare = {key.removeprefix("model."): x for key, x in state.items()}
  assert_same(convert(bare, ours), model)


def test_videomae():
  """A start: what it has no place for is said."""
  state = {}
  for key, value in timm_vit().items():
    if key.endswith("attn.qkv.bias"):
      name = key.removesuffix("qkv.bias")
      state[f"{name}q_bias"], _, state[f"{name}v_bias"] = np.split(value, 3)
    elif key.startswith("norm."):
      state[f"fc_{key}"] = value
    elif key not in ("cls_token", "pos_embed"):
      state[key] = value
  tubes = oracles.normal(C, 3, 2, P, P)
  state["patch_embed.proj.weight"] = tubes
  with pytest.raises(WeightsError, match="nothing fills head/fc/bias"):
    convert(state, image_vit())
  converted = convert(state, image_vit(), new_head=True)
  report = converted.report
  assert report.family == "videomae"
  assert dict(report.fresh) == {
    "class_token": "VideoMAE has no class token",
    "head/fc/kernel": "a new head",
    "head/fc/bias": "a new head",
  }
  params, old = flat(converted.params), flat(split(image_vit())[1])
  bias = params["blocks/0/attention/qkv/bias"]
  was = old["blocks/0/attention/qkv/bias"]
  np.testing.assert_array_equal(bias[:C], was[:C])
  np.testing.assert_array_equal(bias[2 * C :], was[2 * C :])
  assert not bias[C : 2 * C].any()
  kernel = params["patch_embed/proj/kernel"].reshape(P, P, 3, C)
  want = (tubes[:, :, 0] + tubes[:, :, 1]).transpose(2, 3, 1, 0)
  np.testing.assert_allclose(kernel, want, rtol=1e-6)
  np.testing.assert_array_equal(params["norm/bias"], old["norm/bias"])
  np.testing.assert_array_equal(params["position"][1:], sinusoids(16, C))
  (row,) = [row for row in report.rows if row.path == "position"]
  assert (row.source, row.transform) == ("(made)", "sinusoids, squeeze(0,)")


def test_sinusoids():
  table = sinusoids(6, 8)
  for row, channel in np.ndindex(6, 8):
    angle = row / 10000 ** (2 * (channel // 2) / 8)
    want = np.sin(angle) if channel % 2 == 0 else np.cos(angle)
    np.testing.assert_allclose(table[row, channel], want, atol=1e-7)


@functools.cache
def image_swin():
  return filled(abstract(Swin, 5, **SWIN))


def microsoft_swin():
  state = {}
  for key, value in official_state(image_swin()).items():
    key = key.removeprefix("backbone.").replace("cls_head.fc_cls.", "head.")
    if key == "patch_embed.proj.weight":
      value = value[:, :, 0]
    if not key.endswith("_index_old"):
      state[key] = value
  return state | {"layers.0.blocks.1.attn_mask": np.zeros((4, 49, 49))}


def timm_swin():
  """Without constants, merging at the start of stages, another classifier."""
  return {
    re.sub(r"^head", "head.fc", key).replace(
      "layers.0.down", "layers.1.down"
    ): x
    for key, x in microsoft_swin().items()
    if not key.endswith(("index", "attn_mask"))
  }


@pytest.mark.parametrize("make", [microsoft_swin, timm_swin])
def test_names_of_swin(make):
  converted = convert(make(), image_swin())
  assert_same(converted, image_swin())
  assert converted.report.family == (
    "swin" if make is microsoft_swin else "swin_timm"
  )


@pytest.mark.parametrize("make", [microsoft_swin, timm_swin])
def test_pst_starts_from_images(make):
  ours = abstract(
    Swin,
    5,
    **SWIN
    | {
      "patch_size": (2, 2, 2),
      "bias_frames": 4,
      "temporal": {"op": "patch_shift"},
    },
  )
  converted = convert(make(), ours)
  assert not converted.report.fresh
  params, image = flat(converted.params), flat(split(image_swin())[1])
  for path, value in params.items():
    old = np.asarray(image[path])
    if path == "patch_embed/proj/kernel":
      old = np.concatenate([old, old]) / 2
    elif path.endswith("bias/table"):
      old = np.repeat(old, 7, axis=0)
    np.testing.assert_allclose(value, old, rtol=1e-6, err_msg=path)


def test_video_swin_fills_other_windows():
  """Tables of joint windows, of PST's frames, and the label of each."""
  joint = filled(abstract(Swin, 5, **SWIN | {"window": (2, 7, 7)}))
  state = official_state(joint)
  ours = abstract(
    Swin, 5, **SWIN | {"bias_frames": 4, "temporal": {"op": "patch_shift"}}
  )
  converted = convert(state, ours)
  assert converted.report.family == "video_swin"
  for path, value in flat(converted.params).items():
    old = np.asarray(flat(split(joint)[1])[path])
    if path.endswith("bias/table"):
      assert value.shape[0] == 7
      np.testing.assert_allclose(value[::3], old, atol=1e-7)
    else:
      np.testing.assert_array_equal(value, old)


def test_sifa_swin_starts_from_images():
  temporal = {"op": "interframe", "window": 7}
  options = {"patch_size": (4, 2, 2), "patch_norm": False, "temporal": temporal}
  ours = filled(abstract(Swin, 5, **SWIN | options), seed=1)
  converted = convert(microsoft_swin(), ours)
  fresh = dict(converted.report.fresh)
  assert all(re.fullmatch(r".*/temporal/norm/.*", path) for path in fresh)
  assert len(fresh) == 8
  block = converted.params["stages"]["0"]["blocks"]["0"]
  assert not block["temporal"]["conv"]["kernel"].any()
  ignored = dict(converted.report.ignored)
  assert "norm behind its patch" in ignored["patch_embed.norm.bias"]
  kernel = np.asarray(converted.params["patch_embed"]["proj"]["kernel"])
  kernel = kernel.reshape(4, 2 * 2 * 3, 16)
  image = flat(split(image_swin())[1])["patch_embed/proj/kernel"]
  np.testing.assert_array_equal(kernel[2], image)
  assert not kernel[[0, 1, 3]].any()


@functools.cache
def image_resnet():
  baseline = {"blocks": ("B",) * 4, "temporal": NONE, "dual_head": False}
  return filled(abstract(ResNet, 5, **RESNET | baseline))


def torchvision_resnet():
  state = {}
  for key, value in official_state(image_resnet()).items():
    if key == "conv1.weight":
      value = value[:, :, 2]
    elif value.ndim == 5:
      value = value[:, :, 0]
    state[key] = value
  return state


def test_sifa_net_starts_from_images():
  ours = filled(abstract(ResNet, 5, **RESNET), seed=1)
  state = torchvision_resnet()
  with pytest.raises(WeightsError, match="nothing fills dual_head/fc/bias"):
    convert(state, ours)
  converted = convert(state, ours, new_head=True)
  assert converted.report.family == "resnet"
  fresh = dict(converted.report.fresh)
  assert all(
    re.fullmatch(r"dual_head/.*|.*/(context|temporal)/.*", path)
    for path in fresh
  )
  got = flat(converted.params) | flat(converted.stats)
  image = flat(split(image_resnet())[1]) | flat(split(image_resnet())[2])
  for path, value in got.items():
    if path in fresh:
      continue
    old = np.asarray(image[path.replace("dual_stage/", "stages/3/")])
    if path == "stem/conv/kernel":
      np.testing.assert_array_equal(value[:, :, 6:9], old[:, :, 6:9])
      assert not value[:, :, :6].any()
      assert not value[:, :, 9:].any()
    else:
      np.testing.assert_array_equal(value, old)


def test_temporal_convolutions_start_from_images():
  options = {"blocks": ("T",) * 4, "temporal": NONE}
  ours = filled(abstract(ResNet, 5, **RESNET | options), seed=1)
  params = convert(torchvision_resnet(), ours, new_head=True).params
  image = split(image_resnet())[1]["stages"]["3"]["1"]["conv1"]["kernel"]
  for stage in (params["stages"]["3"], params["dual_stage"]):
    past, present, future = np.split(
      np.asarray(stage["1"]["conv1"]["kernel"]), 3
    )
    np.testing.assert_array_equal(present, image)
    assert not past.any()
    assert not future.any()


@pytest.mark.parametrize("batch_norm", [".bn.", "."])
def test_visformer_starts_from_images(batch_norm):
  options = {
    "image_size": 48,
    "stem_width": 4,
    "dim": 16,
    "depths": (1, 1, 1),
    "heads": 2,
    "conv_groups": 4,
    "temporal": NONE,
  }
  ours = filled(abstract(Visformer, 5, **options))
  state = {
    key.removeprefix("base_model.").replace(".bn.", batch_norm): value
    for key, value in official_state(ours).items()
  }
  converted = convert(state, ours)
  assert converted.report.family == "visformer"
  assert_same(converted, ours)
