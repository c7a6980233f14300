"""The environments of Jumanji: games, routing and packing, on the device."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ...core.api import Array, UserError, register
from . import _device, _pictures
from ._pool import unknown


@register("env", "jumanji")
@dataclasses.dataclass(frozen=True)
class Jumanji(_device.OnDevice):
  """Environments of Jumanji by their registered names: Snake-v1, Game2048-v1, Maze-v0, ...

  `kwargs` are for its constructor, such as {'num_rows': 6, 'num_cols': 6} of Snake. Discounts are
  Jumanji's own, and most of its tasks give 0 at their time limit, too.

  `observation` is the field of the observation to take, such as 'grid' of Snake, in its own shape;
  None takes all of them, as one vector. Masks of actions are not applied.

  Raises:
    UserError: jumanji is not installed. When it is first used: no such environment, argument or
      field; several actions or rewards at a time.
  """

  name: str = "Snake-v1"
  observation: str | None = None
  kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _device.require("jumanji", "jumanji")

  @functools.cached_property
  def _library(self) -> _device.Library:
    with _device.making("jumanji"):
      env = self._made()
      action = _action(self.name, env.action_spec)
    if env.reward_spec.shape != ():
      raise UserError(f"jumanji.name = {self.name!r} has several rewards; one agent learns of one.")

    def observed(observation: Any) -> Array:
      x = _device.flat("jumanji", observation, self.observation)
      # Networks take bytes for the pixels of an image; these are not.
      return x.astype(jnp.int32) if x.dtype == jnp.uint8 else x

    def reset(key: Array):
      inner, timestep = env.reset(key)
      return inner, observed(timestep.observation)

    def step(key: Array, inner: Any, action: Array) -> _device.Stepped:
      del key  # the state has its own
      inner, x = env.step(inner, action)
      return _device.Stepped(inner, observed(x.observation), x.reward, x.discount, x.last())

    def draw(inner: Any) -> Array:
      import matplotlib.pyplot as plt

      with _pictures.unseen():
        # Jumanji draws with pyplot, into whatever figure is current.
        env.render(inner)
        return _pictures.of_figure(plt.gcf())

    return _device.library("jumanji", action, reset, step, draw)

  def _made(self) -> Any:
    """Makes the environment of Jumanji."""
    jumanji = _device.imported("jumanji", "jumanji")
    known = jumanji.registered_environments()
    if self.name not in known:
      raise UserError(unknown("jumanji.name", self.name, known))
    try:
      return jumanji.make(self.name, **self.kwargs)
    except TypeError as error:
      raise UserError(f"jumanji.kwargs of {self.name}: {error}.") from error


def _action(name: str, spec: Any) -> specs.DiscreteArray | specs.BoundedArray:
  """Returns the spec of an action of Jumanji.

  Raises:
    UserError: no policy serves such an action.
  """
  kind = type(spec).__name__
  if kind == "DiscreteArray":
    return specs.DiscreteArray(spec.num_values)
  if kind == "BoundedArray" and np.issubdtype(spec.dtype, np.floating):
    low, high = (np.asarray(x, np.float32) for x in (spec.minimum, spec.maximum))
    return specs.BoundedArray(spec.shape, np.float32, low, high)
  raise UserError(
    f"jumanji.name = {name!r} has actions of kind {kind}; one discrete choice, or real numbers "
    "within bounds, are offered."
  )
