"""Efficient video transformers in JAX."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vidjax.models.registry import create_model as create_model
  from vidjax.models.registry import list_models as list_models
  from vidjax.models.registry import model_options as model_options
  from vidjax.predict import predict as predict
  from vidjax.prediction.predictor import Predictor as Predictor
  from vidjax.prediction.results import Prediction as Prediction
  from vidjax.weights.pretrained import load_pretrained as load_pretrained
  from vidjax.weights.pretrained import save_pretrained as save_pretrained

__version__ = "0.1.0"
__all__ = [
  "Prediction",
  "Predictor",
  "create_model",
  "list_models",
  "load_pretrained",
  "model_options",
  "predict",
  "save_pretrained",
]

_HOMES = {
  "Prediction": "prediction.results",
  "Predictor": "prediction.predictor",
  "create_model": "models.registry",
  "list_models": "models.registry",
  "load_pretrained": "weights.pretrained",
  "model_options": "models.registry",
  "predict": "predict",
  "save_pretrained": "weights.pretrained",
}


def __getattr__(name: str) -> Any:
  """Imports the models on first use: decoding threads need no JAX."""
  if name not in _HOMES:
    raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
  home = importlib.import_module(f"vidjax.{_HOMES[name]}")
  return getattr(home, name)


class _Package(types.ModuleType):
  """A package in which a function may have the name of its module.

  Importing `vidjax.predict` would put the module where `vidjax.predict` is a
  function; the function is put there instead.
  """

  def __setattr__(self, name: str, value: Any) -> None:
    if _HOMES.get(name) == name and isinstance(value, types.ModuleType):
      value = getattr(value, name)
    super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
