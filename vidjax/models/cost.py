"""What a model costs: parameters and multiply-adds, counted exactly.

Multiply-adds are counted as the papers count them: matrix products and
convolutions, without element-wise work.
"""

import math
from typing import Any

import jax
from flax import nnx
from jax.extend import core
from jaxtyping import Float

from vidjax.nn.functional import merge, split


def count_parameters(model: nnx.Module) -> int:
  """Returns the number of trainable parameters."""
  _, params, _ = split(model)
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def multiply_adds(
  model: nnx.Module, video: Float[jax.Array, "b t h w 3"] | jax.ShapeDtypeStruct
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
  if equation.params.get("name") in _ELEMENT_WISE:
    return 0
  counter = _COUNTERS.get(equation.primitive.name)
  if counter is not None:
    return counter(equation)
  repeats = equation.params.get("length", 1)  # of a scan
  return repeats * sum(
    _count(inner) for inner in core.jaxprs_in_params(equation.params)
  )


def _count_product(equation: core.JaxprEqn) -> int:
  (contracted, _), _ = equation.params["dimension_numbers"]
  left = _shape(equation.invars[0])
  depth = math.prod(left[axis] for axis in contracted)
  return depth * math.prod(_shape(equation.outvars[0]))


def _count_convolution(equation: core.JaxprEqn) -> int:
  numbers = equation.params["dimension_numbers"]
  kernel = _shape(equation.invars[1])
  # Every output value sums over the kernel's taps and inputs.
  taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
  return taps * math.prod(_shape(equation.outvars[0]))


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _count_alternatives(equation: core.JaxprEqn) -> int:
  # Only one of the branches runs: of a condition, or of several platforms.
  return max(_count(branch.jaxpr) for branch in equation.params["branches"])


# Functions whose products stand for element-wise sums over a few neighbours.
_ELEMENT_WISE = ("interframe_attention",)
_COUNTERS = {
  "cond": _count_alternatives,
  "dot_general": _count_product,
  "conv_general_dilated": _count_convolution,
}
