r"""Parameters and multiply-adds of registered models.

    python -m vidjax.tools.profile_model xvit_b16_k400 xvit_b16_ssv2
    python -m vidjax.tools.profile_model --all [--json]

Multiply-adds are counted as the papers count them: matrix products and
convolutions of one view, without element-wise work.
"""

import argparse
import json
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend import core
from jaxtyping import Float

from vidjax.models.registry import create_model, list_models, model_spec
from vidjax.models.vit import ViT
from vidjax.nn.functional import merge, split
from vidjax.tools.published import PUBLISHED


def count_parameters(model: nnx.Module) -> int:
  """Returns the number of trainable parameters."""
  _, params, _ = split(model)
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def multiply_adds(
  model: ViT, video: Float[jax.Array, "b t h w 3"] | jax.ShapeDtypeStruct
) -> int:
  """Returns the multiply-adds of one forward pass.

  Args:
    model: may be abstract (`nnx.eval_shape`): nothing is computed.
    video: the input, or its shape.
  """
  definition, params, stats = split(model)
  jaxpr = jax.make_jaxpr(
    lambda params, stats, video: merge(definition, params, stats)(video)
  )(params, stats, video)
  return _count(jaxpr.jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
  return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
  counter = _COUNTERS.get(equation.primitive.name)
  if counter is not None:
    return counter(equation)
  repeats = equation.params.get("length", 1)  # of a scan
  return repeats * sum(
    _count(inner) for inner in core.jaxprs_in_params(equation.params)
  )


def _count_product(equation: core.JaxprEqn) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = equation.invars[0].aval.shape
  depth = math.prod(left[axis] for axis in contracted)
  return depth * math.prod(equation.outvars[0].aval.shape)


def _count_convolution(equation: core.JaxprEqn) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  outputs = kernel[numbers.rhs_spec[0]]  # taps = all of the kernel but outputs
  return (
    math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs
  )


_COUNTERS = {
  "dot_general": _count_product,
  "conv_general_dilated": _count_convolution,
}


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
