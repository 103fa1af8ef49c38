"""Every published model, filled from an official state dict of full size."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.weights.sources import assert_same, filled
from vidjax.models.registry import MODELS, create_model
from vidjax.models.swin import Swin
from vidjax.nn.functional import merge, split
from vidjax.weights.convert import convert, official_state

SYSTEMS = ("X-ViT", "TPS", "LAPS", "TokShift", "SIFA")
PUBLISHED = [
  name
  for name, spec in MODELS.items()
  if spec.system in SYSTEMS and "motion" not in name
]
# The fewest frames of a clip at which a model has all its parts, by the
# beginning of its name, of which the longest counts. Weights do not depend on
# them, but for PST's tables of position biases.
FRAMES = {
  "xvit": 2,
  "xvit_b16_k": 8,  # of a segment
  "pst": 32,  # its own
  "laps": 8,  # levels 1 to 3 pair neighbours of 1, 2 and 4 frames
  "laps_visformer_s_3": 32,  # levels 1 to 5
  "tokshift": 2,
  "sifa": 8,  # two of what its stem or its patches join
}
# Pixels of a frame: weights do not depend on them (position tables are
# resized), but windows of 7 x 7 must fit in Swin's last map.
SIDE = 64
SWIN_SIDE = 224


def architecture(name: str) -> str:
  """What tells a program from others, but for the size of the classifier."""
  spec = MODELS[name]
  return f"{spec.backbone} {dict(spec.options) | {'num_classes': 0}}"


# Of models that differ in classes, stride or frames alone the first runs.
RUN = set({architecture(name): name for name in reversed(PUBLISHED)}.values())


def test_all_systems_are_there():
  assert {MODELS[name].system for name in PUBLISHED} == set(SYSTEMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_official_weights_of_full_size(name):
  abstract = nnx.eval_shape(lambda: create_model(name))
  model = filled(abstract)
  state = official_state(model, frames=MODELS[name].frames)
  converted = convert(state, abstract)
  assert_same(converted, model)
  ignored = {key for key, _ in converted.report.ignored}
  assert len(converted.report.rows) + len(ignored) == len(state)
  if name not in RUN:
    return
  del model, state  # gigabytes
  frames = FRAMES[max(filter(name.startswith, FRAMES), key=len)]
  swin = issubclass(MODELS[name].backbone, Swin)
  side = SWIN_SIDE if swin else SIDE
  logits = run(abstract, converted, oracles.normal(1, frames, side, side, 3))
  assert logits.shape == (1, MODELS[name].options["num_classes"])
  assert np.isfinite(logits).all()
  assert np.ptp(logits) > 1e-4


def run(abstract, converted, video):
  """Logits of a model with converted weights.

  Models of one architecture are compiled once: the cache of compiled programs
  is common to all tests, and what a program is for is not in it.
  """
  definition = split(abstract)[0]
  forward = jax.jit(
    lambda params, stats, video: merge(definition, params, stats)(video)
  )
  return forward(converted.params, converted.stats, video)
