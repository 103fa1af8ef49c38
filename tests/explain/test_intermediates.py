import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import oracles
from tests.models import tiny
from vidjax.explain.intermediates import intermediate_names, intermediates
from vidjax.models.resnet import ResNet
from vidjax.models.visformer import Visformer
from vidjax.nn.functional import split


def clip(frames=4, side=tiny.IMAGE):
  return jnp.asarray(tiny.video(frames, side, side, batch=1))


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
  monkeypatch.setattr(jax, "jit", oracles.jit)


def test_values_by_name_and_logits():
  model = tiny.vit(temporal={"op": "mixing"})
  before = split(model)
  video = clip()
  names = ["logits", "blocks.1.attention.weights", "blocks.0.grid"]
  found = intermediates(model, video, names)
  assert list(found) == names
  expected = oracles.call(model, video)
  np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
  assert found["blocks.1.attention.weights"].shape == (1, 4, 3, 17, 17)
  np.testing.assert_array_equal(found["blocks.0.grid"], [4, 1, 4, 4])
  after = split(model)
  assert before[0] == after[0]
  jax.tree.map(np.testing.assert_array_equal, before[1:], after[1:])


def test_names_are_all_there_are():
  model = tiny.swin(temporal={"op": "patch_shift"})
  video = jnp.asarray(tiny.swin_video(batch=1))
  names = intermediate_names(model, video)
  assert names[:3] == [
    "logits",
    "stages.0.blocks.0.grid",
    "stages.0.blocks.0.attention.q",
  ]
  assert len(names) == 1 + 4 * 6
  assert set(intermediates(model, video, names)) == set(names)


def test_an_unknown_name_is_answered_with_those_there_are():
  with pytest.raises(
    ValueError,
    match=r"ViT has no value 'blocks.9.attention.weights'; it has logits, "
    r"blocks.0.grid, blocks.0.attention.q",
  ):
    intermediates(tiny.vit(), clip(), ["blocks.9.attention.weights"])


VISFORMER = {"image_size": 32, "stem_width": 4, "dim": 8, "depths": (0, 1, 1)}
RESNET = {"image_size": 32, "dim": 4, "depths": (1, 2, 1, 1)}


@pytest.mark.parametrize(
  ("backbone", "options", "value", "shape"),
  [
    (
      Visformer,
      VISFORMER | {"heads": 2},
      "stages.1.blocks.0.attention.weights",
      (1, 4, 2, 8, 8),
    ),
    (
      ResNet,
      RESNET | {"dual_head": False},
      "stages.1.1.temporal.attention.weights",
      (1, 1, 4, 4, 9),
    ),
  ],
)
def test_recomputed_blocks_hand_out_too(backbone, options, value, shape):
  model = oracles.build(backbone, 5, scale=0.1, remat="block", **options)
  video = clip(8)
  found = intermediates(model, video, [value, "logits"])
  assert found[value].shape == shape
  expected = oracles.call(model, video)
  np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
  assert model.remat == "block"
