"""How the golden cases of X-ViT are run."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Float

from vidjax.data import geometry, sampling
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.tools.golden import Case, Result, largest_error, relative_error
from vidjax.tools.golden import read_case
from vidjax.train import optim
from vidjax.train.losses import cross_entropy
from vidjax.weights import xvit as keys

Video = Float[jax.Array, "b t h w 3"]

# Official weight that only SGD's three steps leave alone: no weight decay.
SGD_CASE = "tiny_ta_div8.npz"


def build(official: Mapping) -> tuple[ViT, keys.KeyTable]:
  """Returns the abstract model of a case and the table of its keys."""
  mixes = official["mix"] != "none"
  frames, patch = official["frames"], official["patch"]
  average = official["head"] == "avg"
  head = {"kind": "average"}
  if not average:
    head = {
      "kind": "temporal_attention",
      "heads": official["ta_heads"] or official["heads"],
      "layers": official["ta_layers"],
      "mlp_dim": official.get("ta_mlp_dim"),
    }
  model = nnx.eval_shape(
    lambda: ViT(
      official["num_classes"],
      image_size=official["img"] if official["native_grid"] else 224,
      patch_size=patch,
      dim=official["dim"],
      depth=official["depth"],
      heads=official["heads"],
      temporal={
        "op": "mixing",
        "mix": official["mix"],
        "shift_div": official["shift_div"],
        "segment": min(official["num_segments"], frames),
        "blocks": official["locations"],
      }
      if mixes
      else {"op": "none"},
      temporal_positions=official["temp_len"],
      head=head,
      rngs=nnx.Rngs(0),
    )
  )
  if not average:
    return model, keys.TEMPORAL_ATTENTION
  if official.get("dropout", 0.5) == 0:
    return model, keys.AVERAGE_WITHOUT_DROPOUT
  return model, keys.AVERAGE


def run_model(case: Case) -> Result:
  """Logits, loss and gradients of one model with its stored weights."""
  model, table = build(case.official)
  definition, template, stats = split(model)
  params = table.load(case.under("w/"), template)
  video = rearrange(case.arrays["input"], "b c t h w -> b t h w c")
  labels = case.arrays["labels"].astype(np.int32)

  @jax.jit
  @jax.value_and_grad(has_aux=True, argnums=(0, 1))
  def loss_and_logits(params, video: Video):
    logits = merge(definition, params, stats)(video)
    return cross_entropy(logits, labels, 0.3).mean(), logits

  (loss, logits), (gradients, video_gradient) = loss_and_logits(
    params, jnp.asarray(video)
  )
  ours = table.export(jax.device_get(gradients))
  ours["input"] = rearrange(
    np.asarray(video_gradient), "b t h w c -> b c t h w"
  )
  errors = [
    relative_error(ours[name], stored)
    for name, stored in case.under("g/").items()
  ]
  errors.append(relative_error(np.asarray(loss), case.arrays["loss"]))
  stored = case.arrays["logits"]
  return Result(
    largest_error(np.asarray(logits), stored),
    max(1.0, float(np.abs(stored).max())),
    max(errors),
  )
