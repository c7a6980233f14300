"""A block of environments of the Real-World RL suite: what one worker process steps.

Workers import this, so it imports neither JAX nor, before the first reset, dm_control.
"""

import signal
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import async_vector_env

from . import _rwrl_safety as safety
from ._rwrl_settings import Challenges, domains
from ._rwrl_stages import Delay, Draws, Dropped, Noise, Repetition, Stuck, dummies

EPISODE = 1000  # steps


def run(*arguments: Any) -> None:
  """Runs Gymnasium's worker, deaf to Ctrl-C: the parent gets it too, saves, and ends workers."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  async_vector_env._async_worker(*arguments)


def observation_size(domain: str, challenges: Challenges) -> int:
  """Returns D, the number of entries of the flat observation."""
  constraints = 0
  if challenges.safety and challenges.safety_observed:
    constraints = safety.count(domain, challenges.limit_action_change)
  base = domains()[domain].observation_size + constraints
  return base + challenges.dummy_observations + 2 * challenges.multiobj_observed


class Block(gymnasium.Env):
  """K environments of one domain as one: all episodes last 1000 steps, so they end together.

  Order of operations of a step: action delay, noise, dropped, stuck, repetition; physics; reward,
  multi-objective mix, reward delay; observation, noise, dropped, stuck, constraints, delay,
  dummies, objectives. A reset perturbs the physics, draws the suite's initial state, and runs the
  observation through its stages; the reward's delay it leaves alone. Nothing else is forgotten
  at the end of an episode: the first rewards and observations are the last ones of the episode
  before, as in the suite.

  The initial states of environment i depend on seed i alone, as in dm_control; everything else that
  is random on a generator of its own, in the order above. (In the suite that is NumPy's global
  generator, which asking for the observation spec advances, too.)
  """

  def __init__(
    self, domain: str, challenges: Challenges, seeds: tuple[int, ...], rows: int, ahead: int
  ):
    """Takes what the block is to hold; its environments are loaded by the first `reset`.

    Args:
      domain: of the suite.
      challenges: to apply.
      seeds: one an environment, at most `rows`.
      rows: K of the spaces; what has no environment is 0.
      ahead: steps by which the first episode is shorter, where `reset` gets the option `stagger`.
    """
    self._ahead = ahead
    self._domain, self._challenges, self._seeds, self._rows = domain, challenges, seeds, rows
    size, actions = observation_size(domain, challenges), len(domains()[domain].action_minimum)
    infinity = float("inf")
    # A column more than D, for the reward: Gymnasium has room for one number a block.
    self.observation_space = Box(-infinity, infinity, (rows, size + 1), np.float32)
    self.action_space = Box(-infinity, infinity, (rows, actions), np.float64)
    self._environments: list[Any] = []

  def _load(self) -> None:
    # Here, not at the top: dm_control takes a second, and the parent never needs it.
    from . import _rwrl_physics as physics
    from ._rwrl_tasks import Sensors

    spec, it = domains()[self._domain], self._challenges
    bounds = np.array(spec.action_minimum), np.array(spec.action_maximum)
    gaussian = it.action_noise > 0 or it.observation_noise > 0
    dropped = it.dropped_actions[0] > 0 or it.dropped_observations[0] > 0
    stuck = it.stuck_actions[0] > 0 or it.stuck_observations[0] > 0
    # A kind of noise that is on draws for actions and observations, as in the suite.
    self._action_stages = [
      Delay(it.action_delay),
      *([Noise(it.action_noise, bounds)] if gaussian else []),
      *([Dropped(it.dropped_actions)] if dropped else []),
      *([Stuck(it.stuck_actions)] if stuck else []),
      *([Repetition(it.action_repetition)] if it.action_repetition[0] > 0 else []),
    ]
    self._sensor_stages = [
      *([Noise(it.observation_noise)] if gaussian else []),
      *([Dropped(it.dropped_observations)] if dropped else []),
      *([Stuck(it.stuck_observations)] if stuck else []),
    ]
    self._observation_delay = Delay(it.observation_delay)
    self._reward_delay = Delay(it.reward_delay)
    self._environments = [physics.load(self._domain, seed) for seed in self._seeds]
    self._sensors = Sensors(self._domain, self._environments)
    one = self._environments[0]
    # Steps of the physics in one control step.
    self._substeps = round(one.control_timestep() / one.physics.timestep())
    # Not RandomState(seed): that is the generator of the initial states.
    self._generators = [np.random.RandomState((seed, 1)) for seed in self._seeds]
    self._draws = Draws(self._generators)
    self._perturbations = [
      physics.Perturbation(self._domain, it) for _ in self._seeds if it.perturb is not None
    ]

  def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
    """Starts an episode in every environment; observations and rewards [K, D + 1], and no info."""
    del seed
    if not self._environments:
      self._load()
    # Before the reset: it loads the model anew, and with it the state.
    for i, perturb in enumerate(self._perturbations):
      perturb(self._environments[i].physics, self._generators[i])
    for environment in self._environments:
      environment.reset()
    self._sensors.attach()
    self._steps = self._ahead if options and options["stagger"] else 0
    x, reward = self._sensors.read()
    # A reset earns nothing, and it does not push the queue of delayed rewards on.
    return self._observation(x, reward, self._constraints(None), np.zeros_like(reward)), {}

  def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
    """Makes a step with actions [K, A]; all episodes of the block end together.

    Returns:
      Observations with the reward last, [K, D + 1]; 0, False, whether the episodes are cut, {}.
    """
    it = self._challenges
    # The last block of a pool may have rows without an environment.
    x = action[: len(self._environments)]
    for stage in self._action_stages:
      x = stage(x, self._draws)
    change = None
    if it.limit_action_change:
      # Of what is executed, so behind the stages; `control` is still that of the last step.
      change = x - [environment.physics.control() for environment in self._environments]
    for environment, own in zip(self._environments, x, strict=True):
      environment.physics.set_control(own)
      environment.physics.step(self._substeps)
    self._steps += 1
    seen, raw = self._sensors.read()
    constraints = self._constraints(change)
    reward = raw
    # Mixed before the delay, so that both objectives come equally late.
    if it.multiobj_weight > 0:
      holding = constraints.mean(axis=1, keepdims=True)
      reward = (1 - it.multiobj_weight) * raw + it.multiobj_weight * holding
    reward = self._reward_delay(reward, self._draws)
    observation = self._observation(seen, raw, constraints, reward)
    # Gymnasium has one reward and one end a block: ours are in the observation.
    return observation, 0.0, False, self._steps == EPISODE, {}

  def _constraints(self, change: np.ndarray | None) -> np.ndarray:
    """Returns 1 where a constraint holds, [K, C]; no columns without safety.

    Args:
      change: of actions since the last step, [K, A]; None at a reset: they have not changed.
    """
    it, limits = self._challenges, domains()[self._domain].safety
    if not it.safety:
      return np.empty((len(self._environments), 0))
    changes: Any = [None] * len(self._environments)
    if it.limit_action_change:
      changes = np.zeros((len(changes), 1)) if change is None else change
    holds = [
      safety.satisfied(self._domain, environment.physics, limits, it.safety_coeff, row)
      for environment, row in zip(self._environments, changes, strict=True)
    ]
    return np.array(holds, float)

  def _observation(
    self, x: np.ndarray, raw: np.ndarray, constraints: np.ndarray, reward: np.ndarray
  ) -> np.ndarray:
    """Runs the suite's observation through its stages.

    Args:
      x: as the suite has it, [K, n].
      raw: its reward, [K, 1].
      constraints: 1 where one holds, [K, C].
      reward: the one that is reported, [K, 1].

    Returns:
      Observation and reward of every row, float32 [rows, D + 1].
    """
    it = self._challenges
    for stage in self._sensor_stages:
      x = stage(x, self._draws)
    if it.safety and it.safety_observed:
      # Behind the faults, which leave constraints alone, and before the delay, which does not.
      x = np.concatenate((x, constraints), axis=1)
    x = dummies(self._observation_delay(x, self._draws), it.dummy_observations, self._draws)
    if it.multiobj_observed:
      x = np.concatenate((x, raw, constraints.mean(axis=1, keepdims=True)), axis=1)
    rows = np.zeros((self._rows, x.shape[1] + 1), np.float32)
    rows[: len(x), :-1], rows[: len(x), -1:] = x, reward
    return rows
