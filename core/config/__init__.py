"""Configurations: strict gin, from text to the object that it describes."""

from .bindings import default, fields
from .loading import Loaded, load
from .reading import ROOT, experiments

__all__ = ["ROOT", "Loaded", "default", "experiments", "fields", "load"]
