"""The Atari benchmark: 57 games, from EnvPool."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from dm_env import specs

from ...core.api import Count, DrawnEnvironment, Environment, UserError, register, resumable
from . import _pool
from ._atari57 import games

_PROTOCOLS = {
  "paper": {"noop_max": 30, "repeat_action_probability": 0.0, "full_action_space": False},
  "sticky": {"noop_max": 1, "repeat_action_probability": 0.25, "full_action_space": True},
}


@register("env", "atari")
@dataclasses.dataclass(frozen=True)
class Atari:
  """The 57 Atari games by snake_case name, such as 'breakout' or 'ms_pacman'.

  Observations are the last four frames, grey, [84, 84, 4] uint8, newest last; an action is held
  for four frames, of which the last two are max-pooled; rewards are raw. An episode ends with the
  game or after `max_episode_steps` (27,000, which is 108,000 frames or half an hour).

  'paper' is the protocol of IMPALA and STAC: up to 30 no-ops at the start, the game's own minimal
  actions, deterministic. 'sticky' is Machado et al. 2018, section 5: the emulator repeats the last
  action with probability 0.25, all 18 actions, no random start (but FIRE, as below). Scores of the
  two do not compare.

  `life_loss_terminates` gives the transition in which a life is lost discount 0; play and the
  episode's return go on. None means yes for 'paper', no for 'sticky'. `fire_on_reset` presses FIRE
  at the start of games that wait for it. `num_threads` is None for one a CPU.

  Raises:
    UserError: no such game or protocol.
  """

  game: str = "breakout"
  protocol: Literal["paper", "sticky"] = "paper"
  life_loss_terminates: bool | None = None
  fire_on_reset: bool = True
  max_episode_steps: Count = 27_000
  num_threads: Count | None = resumable(None)

  def __post_init__(self):
    if self.game not in games():
      raise UserError(_pool.unknown("atari.game", self.game, games()))
    if self.protocol not in _PROTOCOLS:
      raise UserError(_pool.unknown("atari.protocol", self.protocol, _PROTOCOLS))

  @property
  def reference_scores(self) -> tuple[float, float]:
    """The returns of a random policy and of the human tester."""
    game = games()[self.game]
    return game.random_score, game.human_score

  def make(self, seeds: tuple[int, ...]) -> Environment:
    """Makes a pool of one environment a seed, observations [B, 84, 84, 4]."""
    return self._make(seeds, {})

  def make_drawn(self, seeds: tuple[int, ...]) -> DrawnEnvironment:
    """Makes the same pool, with the emulator's own pictures."""
    return self._make(seeds, _pool.DRAWN)

  def _make(self, seeds: tuple[int, ...], drawn: Mapping[str, Any]) -> _pool.Pool:
    on_life_loss = self.life_loss_terminates
    if on_life_loss is None:
      on_life_loss = self.protocol == "paper"
    return _pool.Pool(
      games()[self.game].task,
      seeds,
      observation=specs.Array((84, 84, 4), np.uint8),
      observe=_pool.channels_last,
      discount=_until_life_lost if on_life_loss else _until_game_over,
      num_threads=self.num_threads,
      options={
        **_PROTOCOLS[self.protocol],
        "use_fire_reset": self.fire_on_reset,
        "max_episode_steps": self.max_episode_steps,
        # What the docstring promises, whatever EnvPool's defaults become.
        "stack_num": 4,
        "frame_skip": 4,
        "gray_scale": True,
        "episodic_life": False,  # would start a new episode, and forget the score, at each life
        "reward_clip": False,
        **drawn,
      },
    )


def _until_game_over(
  terminated: np.ndarray, info_tm1: _pool.Info, info_t: _pool.Info
) -> np.ndarray:
  """Computes discounts [B]: 0 where the game is over, on the limit's last step too, else 1."""
  # EnvPool's `terminated` is False where the limit falls on the end; its info tells them apart.
  return _pool.until_terminated(terminated | info_t["terminated"].astype(bool), info_tm1, info_t)


def _until_life_lost(
  terminated: np.ndarray, info_tm1: _pool.Info, info_t: _pool.Info
) -> np.ndarray:
  """Computes discounts [B]: 0 where the game is over or a life was lost, else 1."""
  # EnvPool tells how many lives are left; that one was lost shows in two steps only.
  lost = info_t["lives"] < info_tm1["lives"]
  return _until_game_over(terminated | lost, info_tm1, info_t)
