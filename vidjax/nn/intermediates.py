"""Values inside of a model, handed out by name to those who ask for them.

A module offers values where they arise, each as a function that computes it:

    hand_out(self, weights=lambda: attention_weights(q, k, ...))

Nothing comes of it unless the model runs inside of `collecting`: no function is
called, and the compiled program is the same as without the line. Flax's own
way, `sow`, stores values in the modules, which misses those that are rebuilt
inside of a function, as recomputed blocks are.
"""

import contextlib
import contextvars
from collections.abc import Callable, Collection, Iterator

import jax
from flax import nnx


class Collector:
  """Takes the values that are asked for, and notes what is offered.

  Args:
    names: "path.name" of the values to take.

  Attributes:
    found: the values by name.
    offered: names of all values that modules have offered, in their order.
  """

  def __init__(self, names: Collection[str]):
    self._names = frozenset(names)
    self.found: dict[str, jax.Array] = {}
    self.offered: list[str] = []

  def offer(
    self, path: str, values: dict[str, Callable[[], jax.Array]]
  ) -> None:
    """Takes those values, of any shape, that are asked for of a module."""
    for name, make in values.items():
      full = f"{path}.{name}"
      self.offered.append(full)
      if full in self._names:
        self.found[full] = make()


_collector: contextvars.ContextVar[Collector | None] = contextvars.ContextVar(
  "collector", default=None
)
_PATH = "path_in_model"


def hand_out(module: nnx.Module, **values: Callable[[], jax.Array]) -> None:
  """Offers values of a module; free of charge while nobody collects.

  Args:
    module: that has the values.
    **values: functions that compute them, of any shape, by name.
  """
  collector = _collector.get()
  if collector is not None:
    collector.offer(getattr(module, _PATH), values)


@contextlib.contextmanager
def collecting(
  model: nnx.Module, names: Collection[str]
) -> Iterator[Collector]:
  """Collects what the modules of a model hand out in this context.

  Args:
    model: a copy that nobody else has (`vidjax.nn.functional.merge` makes one):
      its modules are told their paths, such as "blocks.3.attention".
    names: of the values to take, "blocks.3.attention.weights".
  """
  for path, module in nnx.iter_modules(model):
    setattr(module, _PATH, ".".join(map(str, path)))
  collector = Collector(names)
  token = _collector.set(collector)
  try:
    yield collector
  finally:
    _collector.reset(token)
