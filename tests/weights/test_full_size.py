"""Every published model, filled from an official state dict of full size."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests import oracles
from tests.weights.sources import assert_same, filled
from vidjax.models.registry import MODELS, create_model
from vidjax.nn.functional import merge, split
from vidjax.weights.convert import convert, official_state

SYSTEMS = ("X-ViT", "TPS", "LAPS", "TokShift", "SIFA")
PUBLISHED = [
  name
  for name, spec in MODELS.items()
  if spec.system in SYSTEMS and "motion" not in name
]
# One of each backbone and system, with fewer frames than their own.
RUN = {
  "xvit_b32_8f_ssv2": 2,
  "pst_t_k400": 32,
  "laps_visformer_s_k400": 8,
  "tokshift_b16_k400": 1,
  "sifa_r50_16f_k400": 8,
  "sifa_swin_s_16f_k400": 8,
}


def test_all_systems_are_there():
  assert {MODELS[name].system for name in PUBLISHED} == set(SYSTEMS)
  assert RUN.keys() <= set(PUBLISHED)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_forward_of_full_size(name):
  abstract = nnx.eval_shape(lambda: create_model(name))
  converted = convert(official_state(filled(abstract)), abstract)
  definition = split(abstract)[0]
  video = oracles.normal(1, RUN[name], 224, 224, 3)

  @jax.jit
  def run(params, stats, video):
    return merge(definition, params, stats)(video)

  logits = run(converted.params, converted.stats, video)
  assert logits.shape == (1, MODELS[name].options["num_classes"])
  assert np.isfinite(logits).all()
  assert np.ptp(logits) > 1e-4
