"""timm's image models with random weights, and ours filled from them."""

import jax
import numpy as np
import pytest
from flax import nnx

from vidjax.models.visformer import Visformer
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.weights import keys, laps

AVERAGE = {"kind": "average", "init_std": 0.02}
NONE = {"op": "none"}


def both_logits(name, model, table, **options):
  """Logits of timm's model and of ours on the same four images."""
  reason = "compares with timm itself: pip install 'vidjax[timm]'"
  torch = pytest.importorskip("torch", reason=reason)
  timm = pytest.importorskip("timm", reason=reason)
  torch.manual_seed(0)
  theirs = timm.create_model(name, num_classes=7, **options).eval()
  with torch.no_grad():
    for key, value in theirs.state_dict().items():
      if value.is_floating_point():
        noise = 0.1 * torch.randn_like(value)
        value.add_(noise.abs() if key.endswith("running_var") else noise)
    images = torch.randn(4, 3, 64, 64)
    want = theirs(images).numpy()
  state = {k: v.numpy() for k, v in theirs.state_dict().items()}
  definition, params, stats = split(model)
  params, stats = keys.load(table, laps.official_keys(state), params, stats)
  video = images.permute(0, 2, 3, 1)[:, None].numpy()
  run = jax.jit(lambda p, s, v: merge(definition, p, s)(v))
  return np.asarray(run(params, stats, video)), want


@pytest.mark.parametrize("leaps", [False, True])
def test_visformer(leaps):
  plug = {"op": "leap", "levels": (None,), "shift": "none"} if leaps else NONE
  model = nnx.eval_shape(
    lambda: Visformer(
      7,
      image_size=64,
      stem_width=16,
      dim=192,
      heads=3,
      temporal=plug,
      head=AVERAGE,
      rngs=nnx.Rngs(0),
    )
  )
  got, want = both_logits("visformer_tiny", model, laps.VISFORMER, img_size=64)
  np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))


def test_vit():
  model = nnx.eval_shape(
    lambda: ViT(
      7,
      image_size=64,
      dim=192,
      depth=12,
      heads=3,
      temporal=NONE,
      temporal_positions=0,
      head=AVERAGE,
      rngs=nnx.Rngs(0),
    )
  )
  got, want = both_logits("vit_tiny_patch16_224", model, laps.VIT, img_size=64)
  np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
