"""Where inter-frame attention looks: nine places in the next frame."""

import dataclasses

import numpy as np
from jaxtyping import Float

from vidjax.explain.intermediates import LOGITS, Video, intermediates
from vidjax.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """Places in the next frame that each position of a map looks at.

  Attributes:
    places: rows and columns, in positions of the map, of the n neighbours.
    weights: of the neighbours; they need not sum to one.
    logits: of the model (b k).
    name: of the layer.
  """

  places: Float[np.ndarray, "s h w n 2"]
  weights: Float[np.ndarray, "s h w n"]
  logits: Float[np.ndarray, "b k"]
  name: str

  @property
  def moves(self) -> Float[np.ndarray, "s h w 2"]:
    """Rows and columns from each position to the mean of its places."""
    height, width = self.places.shape[1:3]
    own = np.moveaxis(np.indices((height, width)), 0, -1)
    return (self.places.mean(axis=-2) - own).astype(np.float32)


def neighbours_of(model: Backbone, video: Video, layer: str) -> Neighbours:
  """Returns the places and weights of an inter-frame attention.

  Args:
    model: with inter-frame attention.
    video: one normalised clip (1 t h w 3).
    layer: of `vidjax.explain.layers.interframe_layers`.

  Raises:
    ValueError: if the layer does not run at this size; the message lists the
      values there are.
  """
  names = [f"{layer}.places", f"{layer}.weights", LOGITS]
  found = intermediates(model, video, names)
  places, weights, logits = (np.asarray(found[name]) for name in names)
  return Neighbours(places[0], weights[0], logits, layer)
