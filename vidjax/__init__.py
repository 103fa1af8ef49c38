"""Efficient video transformers in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from vidjax.models.registry import create_model as create_model
  from vidjax.models.registry import list_models as list_models
  from vidjax.models.registry import model_options as model_options

__version__ = "0.1.0"
__all__ = ["create_model", "list_models", "model_options"]


def __getattr__(name: str) -> Any:
  """Imports the models on first use: decoding threads need no JAX."""
  if name in __all__:
    return getattr(importlib.import_module("vidjax.models.registry"), name)
  raise AttributeError(f"module 'vidjax' has no attribute {name!r}")
