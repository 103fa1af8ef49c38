"""What a registered model is: a class, its options, and the usual input."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from vidjax.models.backbone import Backbone

# Arguments of a backbone that are not part of a model's name.
_HOW = ("dtype", "remat", "rngs")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
  """A registered model.

  Attributes:
    backbone: class of the model.
    system: the published system, or what it is a baseline of.
    frames: frames of a clip that its figures are given for.
    options: every argument of the class but dtype, remat and rngs.
  """

  backbone: Callable[..., Backbone]
  system: str
  frames: int
  options: Mapping[str, Any]

  @property
  def image_size(self) -> int:
    """Side of the square frames in pixels."""
    return self.options["image_size"]


def specify(
  backbone: type[Backbone], system: str, frames: int, **options: Any
) -> ModelSpec:
  """Returns a specification; options left out take the class's defaults."""
  parameters = inspect.signature(backbone.__init__).parameters
  defaults = {
    name: dict(p.default) if isinstance(p.default, Mapping) else p.default
    for name, p in parameters.items()
    if p.default is not p.empty and name not in _HOW
  }
  return ModelSpec(backbone, system, frames, defaults | options)
