"""Efficient video transformers in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vidjax.models.registry import create_model as create_model
  from vidjax.models.registry import list_models as list_models
  from vidjax.models.registry import model_options as model_options
  from vidjax.weights.pretrained import load_pretrained as load_pretrained
  from vidjax.weights.pretrained import save_pretrained as save_pretrained

__version__ = "0.1.0"
__all__ = [
  "create_model",
  "list_models",
  "load_pretrained",
  "model_options",
  "save_pretrained",
]


def __getattr__(name: str) -> Any:
  """Imports the models on first use: decoding threads need no JAX."""
  if name not in __all__:
    raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
  home = "weights.pretrained" if "pretrained" in name else "models.registry"
  return getattr(importlib.import_module(f"vidjax.{home}"), name)
