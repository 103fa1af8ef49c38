"""Efficient video transformers in JAX."""

from vidjax.models.registry import create_model as create_model
from vidjax.models.registry import list_models as list_models
from vidjax.models.registry import model_options as model_options

__version__ = "0.1.0"
