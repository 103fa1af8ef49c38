r"""Parameters and multiply-adds of registered models.

    python -m vidjax.tools.profile_model xvit_b16_k400 xvit_b16_ssv2
    python -m vidjax.tools.profile_model --all [--json]

Multiply-adds are counted as the papers count them: matrix products and
convolutions of one view, without element-wise work.
"""

import argparse
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vidjax.models.cost import count_parameters, multiply_adds
from vidjax.models.registry import create_model, list_models, model_spec
from vidjax.tools.published import PUBLISHED


def profile(name: str) -> dict[str, Any]:
  """Returns the figures of a registered model, published ones beside them.

  Keys: name, system, frames, image_size, params, gmacs_per_view and, where
  they are published, published_params and published_gmacs_per_view.
  """
  spec = model_spec(name)
  size = spec.image_size
  video = jax.ShapeDtypeStruct((1, spec.frames, size, size, 3), jnp.float32)
  model = nnx.eval_shape(lambda: create_model(name))
  return {
    "name": name,
    "system": spec.system,
    "frames": spec.frames,
    "image_size": size,
    "params": count_parameters(model),
    "gmacs_per_view": round(multiply_adds(model, video) / 1e9, 3),
    **PUBLISHED.get(name, {}),
  }


def _table(rows: list[dict[str, Any]]) -> str:
  lines = [
    f"{'model':<26}{'frames':>7}{'px':>5}{'parameters':>13}"
    f"{'published':>13}{'GMACs/view':>12}{'published':>11}"
  ]
  for row in rows:
    params = row.get("published_params")
    gmacs = row.get("published_gmacs_per_view")
    lines.append(
      f"{row['name']:<26}{row['frames']:>7}{row['image_size']:>5}"
      f"{row['params']:>13,}{'' if params is None else f'{params:,}':>13}"
      f"{row['gmacs_per_view']:>12.3f}{'' if gmacs is None else gmacs:>11}"
    )
  return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  parser = argparse.ArgumentParser(
    description="Parameters and multiply-adds of registered models."
  )
  parser.add_argument("names", nargs="*", help="registered model names")
  parser.add_argument("--all", action="store_true", help="every model")
  parser.add_argument("--json", action="store_true", help="a JSON list")
  options = parser.parse_args(arguments)
  names = list_models() if options.all else options.names
  if not names:
    parser.error("name a model or give --all")
  try:
    rows = [profile(name) for name in names]
  except ValueError as error:
    print(error, file=sys.stderr)
    return 2
  print(json.dumps(rows, indent=1) if options.json else _table(rows))
  return 0


if __name__ == "__main__":
  sys.exit(main())
