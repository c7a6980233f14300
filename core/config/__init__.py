"""Configurations: strict gin, from text to the object that it describes."""

from .bindings import default, fields
from .loading import ROOT, Loaded, experiments, load

__all__ = ["ROOT", "Loaded", "default", "experiments", "fields", "load"]
