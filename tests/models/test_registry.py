import inspect
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import vidjax
from tests import oracles
from vidjax.models.heads import AverageHead, TemporalAttentionHead
from vidjax.models.registry import (
  MODELS,
  create_model,
  list_models,
  model_options,
  model_spec,
)
from vidjax.nn.plugs import JointAttention, Mixing
from vidjax.nn.temporal import Temporal

SMALL: dict[str, Any] = {
  "image_size": 16,
  "patch_size": 8,
  "dim": 24,
  "depth": 2,
  "heads": 3,
}


def abstract(name, **options):
  return nnx.eval_shape(lambda: create_model(name, **options))


def test_list_models():
  names = list_models()
  assert names == sorted(MODELS)
  assert list_models("ssv2") == [n for n in names if "ssv2" in n]
  assert list_models("no such part") == []


def test_published_names_are_registered_with_their_clip(shared):
  published = json.loads((shared / "published.json").read_text())["models"]
  for name in published.keys() & MODELS.keys():
    assert model_spec(name).frames == published[name]["frames"], name
    assert model_spec(name).image_size == published[name]["image_size"], name
    assert model_spec(name).system == published[name]["system"], name
  assert published.keys() <= MODELS.keys()


@pytest.mark.parametrize(
  ("name", "classes", "segment", "shift_div"),
  [
    ("xvit_b16_k400", 400, 8, 8),
    ("xvit_b16_k600", 600, 8, 8),
    ("xvit_b16_ssv2", 174, None, 4),
  ],
)
def test_released_configurations(name, classes, segment, shift_div):
  """The table of the official yaml files; 16 frames, all blocks mix."""
  options = model_options(name)
  mixing = options["temporal"]
  assert options["num_classes"] == classes
  assert (mixing["segment"] or 16) == (segment or 16)
  assert mixing["shift_div"] == shift_div
  assert (mixing["mix"], mixing["window"], mixing["split"]) == (
    "kv",
    1,
    "channels",
  )
  assert mixing["blocks"] is None
  assert options["head"]["layers"] == 1
  assert options["head"]["heads"] == options["heads"] == 12
  assert options["dropout_rate"] == 0.5
  assert options["drop_path"] == 0
  assert options["temporal_positions"] == 8


@pytest.mark.parametrize("name", ["xvit_l16_8f_ssv2", "xvit_l32_8f_ssv2"])
def test_large_models_mix_in_fifteen_blocks(name):
  assert model_options(name)["depth"] == 24
  assert model_options(name)["temporal"]["blocks"] == tuple(range(15))


@pytest.mark.parametrize("name", list_models())
def test_options_are_complete(name):
  """Whatever the class takes can be set in a configuration page."""
  options = model_options(name)
  assert options["name"] == name
  backbone = model_spec(name).backbone
  arguments = set(inspect.signature(backbone.__init__).parameters)
  assert set(options) - {"name"} == arguments - {
    "self",
    "dtype",
    "remat",
    "rngs",
  }


def test_options_are_a_copy():
  options = model_options("xvit_motion")
  options["temporal"]["window"] = 9
  options["head"]["layers"] = 9
  fresh = model_options("xvit_motion")
  assert fresh["temporal"]["window"] == 1
  assert fresh["head"]["layers"] == 1


def test_page_options_build_the_model():
  options = model_options("xvit_motion") | SMALL
  options["head"]["heads"] = 3
  model = abstract(options.pop("name"), **options)
  assert len(model.blocks) == 2
  assert model.position.shape == (1 + 2 * 2, 24)


def test_overrides_keep_the_rest_of_the_same_operation():
  model = abstract(
    "xvit_motion",
    temporal={"segment": 4},
    head={"kind": "temporal_attention", "layers": 2},
  )
  plug = model.blocks[0].temporal
  assert isinstance(plug, Mixing)
  registered = model_options("xvit_motion")
  assert plug.segment == 4
  assert plug.shift_div == registered["temporal"]["shift_div"]
  assert isinstance(model.head, TemporalAttentionHead)
  assert len(model.head.blocks) == 2
  assert model.head.blocks[0].attention.heads == registered["head"]["heads"]
  assert registered["temporal"]["segment"] is None


def test_overrides_replace_another_operation():
  model = abstract(
    "xvit_motion", temporal={"op": "joint"}, head={"kind": "average"}
  )
  assert {type(b.temporal) for b in model.blocks} == {JointAttention}
  assert isinstance(model.head, AverageHead)
  model = abstract(
    "xvit_motion", depth=3, temporal={"op": "mixing", "blocks": (1,)}
  )
  plugs = [type(block.temporal) for block in model.blocks]
  assert plugs == [Temporal, Mixing, Temporal]


def test_create_model_is_reproducible():
  @oracles.jit
  def position():
    model = create_model("vit_motion", **SMALL)
    return model.position[...]

  @oracles.jit
  def position_of(key):
    model = create_model("vit_motion", **SMALL, rngs=nnx.Rngs(key))
    return model.position[...]

  same, other = (position_of(jax.random.key(seed)) for seed in (0, 1))
  np.testing.assert_array_equal(position(), same)
  assert np.abs(same - other).min() > 0


def test_dtype_and_remat_reach_the_model():
  model = abstract("xvit_motion", dtype=jnp.bfloat16, remat="block")
  assert model.remat == "block"
  assert model.blocks[0].mlp.fc1.dtype == jnp.bfloat16
  assert model.blocks[0].mlp.fc1.kernel.dtype == jnp.float32


def test_public_names():
  assert vidjax.list_models is list_models
  assert vidjax.create_model is create_model
  assert vidjax.model_options is model_options
  assert {"create_model", "list_models"} <= set(vidjax.__all__)
  with pytest.raises(AttributeError, match="no attribute 'no_such_verb'"):
    vidjax.no_such_verb  # noqa: B018


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("xvit_b16_k40", "xvit_b16_k400"),
    ("xvit_b_16_ssv2", "xvit_b16_ssv2"),
    ("timesformer", "timesformer_motion"),
  ],
)
def test_unknown_model(name, near):
  message = f"no model '{name}'; did you mean .*{near}"
  for function in (model_spec, model_options, create_model):
    with pytest.raises(ValueError, match=message):
      function(name)


def test_unknown_model_unlike_any():
  with pytest.raises(
    ValueError, match=r"no model '#'.*vidjax\.list_models"
  ) as error:
    model_spec("#")
  assert "did you mean" not in str(error.value)


def test_unknown_option():
  message = (
    "model 'xvit_motion' has no option 'dpeth', 'width'; its options are .*"
    "depth, .*temporal"
  )
  with pytest.raises(ValueError, match=message):
    create_model("xvit_motion", width=3, dpeth=2)


def test_unknown_argument_of_the_registered_operation():
  with pytest.raises(ValueError, match=r"'mixing': .*'shift'"):
    abstract("xvit_motion", temporal={"shift": 4})
