import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.nn.functional import merge, split
from vidjax.tools.golden import read_case
from vidjax.weights.entries import entries, values
from vidjax.weights.keys import WeightsError
from vidjax.weights.swin import (
  inflate,
  inflate_bias,
  inflate_patches,
  microsoft_keys,
)
from vidjax.weights.tps import TPS

TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"
WINDOW = (1, 7, 7)
OPTIONS = {
  "patch_size": (2, 4, 4),
  "window": WINDOW,
  "image_size": 28,
  "depths": (2,),
  "heads": (2,),
}


@pytest.mark.parametrize("name", ["w7", "w12"])
def test_official_inflation(name, shared):
  case = read_case(shared / "golden/tps/inflate.npz")
  stored = case.under(f"{name}/out/")
  images = entries(case.under(f"{name}/in/"))
  ours = values(inflate(images, patch_frames=2, window=(16, 7, 7)))
  assert stored.keys() == ours.keys()
  for key, value in stored.items():
    # Windows of 7 are copied, those of 12 resized in float32.
    atol = 0 if name == "w7" or "table" not in key else 5e-6
    np.testing.assert_allclose(ours[key], value, rtol=0, atol=atol, err_msg=key)


def image_state():
  """A 2-D Swin's state dict: the video model's, one frame, and constants."""
  model = tiny.swin(**OPTIONS | {"patch_size": (1, 4, 4), "bias_frames": 1})
  exported = TPS.export(jax.device_get(split(model)[1]))
  state = {
    # First, where a check that looks at one entry looks.
    "layers.0.blocks.0.attn.relative_position_index": np.zeros(
      (49, 49), np.int64
    )
  }
  for key, value in exported.items():
    if key.startswith("backbone."):
      state[key.removeprefix("backbone.")] = value
  state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0]
  return model, state | {
    "layers.0.blocks.1.attn_mask": np.zeros((4, 49, 49), np.float32),
    "head.weight": np.zeros((1000, 16), np.float32),
    "head.bias": np.zeros(1000, np.float32),
  }


def test_inflation_drops_constants():
  _, state = image_state()
  video = inflate(entries(state), patch_frames=2, window=(3, 7, 7))
  dropped = {
    "layers.0.blocks.0.attn.relative_position_index",
    "layers.0.blocks.1.attn_mask",
  }
  assert video.keys() == state.keys()
  assert values(video).keys() == state.keys() - dropped
  for key in dropped:
    assert "constant" in video[key].unused
  patches, table = video["patch_embed.proj.weight"], video[TABLE]
  assert patches.value.shape == (16, 3, 2, 4, 4)
  assert patches.shape == (16, 3, 4, 4)
  assert patches.changes == ("spread over 2 frames",)
  assert table.value.shape == (5 * 169, 2)
  assert table.changes == ("repeated for windows of 3 x 7 x 7",)
  key = "layers.0.blocks.0.mlp.fc1.weight"
  assert video[key].value is state[key]


def test_timm_merges_at_the_start_of_stages():
  names = (
    "layers.1.downsample.norm.bias",
    "layers.3.downsample.reduction.weight",
    "layers.1.blocks.0.norm1.bias",
    "head.fc.bias",
    "norm.bias",
  )
  state = entries({name: np.zeros(1) for name in names})
  assert list(microsoft_keys(state)) == [
    "layers.0.downsample.norm.bias",
    "layers.2.downsample.reduction.weight",
    "layers.1.blocks.0.norm1.bias",
    "head.bias",
    "norm.bias",
  ]


def test_an_inflated_model_sees_still_frames_as_the_image_model_does():
  """Without the channel shift, of frames that are all the same."""
  image_model, state = image_state()
  temporal = {"op": "patch_shift", "schedule": "patch_only"}
  model = tiny.swin(**OPTIONS, temporal=temporal)  # of 4 frames of tokens
  definition, params, stats = split(model)
  images = {k: x for k, x in state.items() if not k.startswith("head.")}
  inflated = inflate(entries(images), patch_frames=2, window=(4, 7, 7))
  source = {f"backbone.{key}": x for key, x in values(inflated).items()}
  head = jax.device_get(image_model.head.fc)
  source["cls_head.fc_cls.weight"] = np.asarray(head.kernel[...]).T
  source["cls_head.fc_cls.bias"] = np.asarray(head.bias[...])
  loaded = jax.tree.map(jnp.asarray, TPS.load(source, params))
  still = np.repeat(tiny.swin_video(1, 28, 28), 8, axis=1)
  np.testing.assert_allclose(
    oracles.call(merge(definition, loaded, stats), still),
    oracles.call(image_model, still[:, :1]),
    atol=2e-5,
  )


def test_patches_are_spread_at_equal_shares():
  weight = oracles.normal(5, 3, 2, 2)
  for frames in (1, 2, 3):
    inflated = inflate_patches(weight, frames)
    assert inflated.shape == (5, 3, frames, 2, 2)
    assert inflated.dtype == np.float32
    for s in range(frames):
      np.testing.assert_allclose(inflated[:, :, s], weight / frames, rtol=1e-6)


def test_a_table_is_repeated_for_every_difference_of_frames():
  table = oracles.normal(25, 4)
  np.testing.assert_array_equal(
    inflate_bias(table, (2, 3, 3)), np.tile(table, (3, 1))
  )


def test_a_table_of_another_window_is_resized():
  table = oracles.normal(9, 2)
  inflated = inflate_bias(table, (2, 3, 4))
  want = oracles.bicubic(table.reshape(3, 3, 2), (5, 7), (5 / 3, 7 / 3))
  np.testing.assert_allclose(
    inflated, np.tile(want.reshape(35, 2), (3, 1)), atol=1e-5
  )


@pytest.mark.parametrize("rows", [15, 16, 170])
def test_a_table_of_no_square_window(rows):
  message = (
    f"a position bias table of {rows} rows is not of a square window; give the "
    "weights of a Swin with windows of n x n tokens"
  )
  with pytest.raises(WeightsError, match=message):
    inflate_bias(oracles.normal(rows, 2), (2, 3, 3))
