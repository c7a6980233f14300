"""The experiment: what a training run is, as data alone; `core.train` says how it goes."""

from .agent import Agent, BehaviourName, CriticName, Objective, Outer
from .runtimes import IndependentRuns, Lockstep, Population, Sebulba
from .train import Evaluation, Train

__all__ = [
  "Agent",
  "BehaviourName",
  "CriticName",
  "Evaluation",
  "IndependentRuns",
  "Lockstep",
  "Objective",
  "Outer",
  "Population",
  "Sebulba",
  "Train",
]
