"""The Real-World RL suite as a plain loop: one environment, step by step, a dictionary at a time.

Written from the description of the suite, not from the plugin, and with dm_control's own models.
Everything random but the initial state comes from one generator, in the suite's order.
"""

import collections
from typing import Any

import numpy as np
from dm_control import suite
from dm_control.suite import cartpole, common, quadruped

TASKS = {"cartpole": "swingup", "walker": "walk", "quadruped": "walk", "humanoid": "walk"}
# delay of actions and observations, of rewards, noise, faults (probability, steps), held, dummies
LEVELS = {
  "none": (0, 0, 0.0, 0.0, 1, 1, 0),
  "easy": (3, 10, 0.1, 0.01, 1, 1, 10),
  "medium": (6, 20, 0.3, 0.05, 5, 2, 20),
  "hard": (9, 40, 1.0, 0.1, 10, 3, 50),
}


def level(name: str) -> dict[str, Any]:
  """The settings of `PlainRwrl` at a level, physics unperturbed."""
  delay, reward_delay, std, probability, steps, held, number = LEVELS[name]
  return {
    "action_delay": delay,
    "observation_delay": delay,
    "reward_delay": reward_delay,
    "action_noise": std,
    "observation_noise": std,
    "dropped_actions": (0.0, 1),
    "dropped_observations": (probability, steps),
    "stuck_actions": (0.0, 1),
    "stuck_observations": (probability, steps),
    "action_repetition": (float(name != "none"), held),
    "dummy_observations": number,
  }


class PlainRwrl:
  """One environment; `reset` and `step` return the flat observation and the reward (None first)."""

  def __init__(self, domain: str, seed: int, settings: dict[str, Any], constraints=None):
    """Args:
    domain: of the suite.
    seed: of the initial states; that of the rest follows from it.
    settings: those of `level`, all or some, and safety_observed, multiobj_weight and
      multiobj_observed; also pole_length (min, max, std), uniform at each reset.
    constraints: physics -> list of bool.
    """
    self.random = np.random.RandomState((seed, 1))
    self.set = {**level("none"), **settings}
    self.constraints = constraints
    self.env = suite.load(domain, TASKS[domain], task_kwargs={"random": seed})
    if domain == "quadruped":
      self.env.task.initialize_episode = self._yaw_only
    self.spec = self.env.action_spec()
    self.queues = {"action": [], "observation": [], "reward": []}
    self.counters = {}
    self.previous = {}
    self.holding = 0
    self.held = None

  def _yaw_only(self, physics):
    azimuth = self.env.task.random.uniform(0, 2 * np.pi)
    orientation = np.array((np.cos(azimuth / 2), 0, 0, np.sin(azimuth / 2)))
    quadruped._find_non_contacting_height(physics, orientation)

  def _delayed(self, name, item):
    queue, length = self.queues[name], self.set[f"{name}_delay"] + 1
    if not queue:
      queue.extend([item] * length)
    else:
      queue.append(item)
    return queue.pop(0)

  def _on(self, *names):
    values = [self.set[name] for name in names]
    return any(value[0] > 0 if isinstance(value, tuple) else value > 0 for value in values)

  def _faulty(self, name, shape, fault):
    """Which entries are faulty now, one after the other."""
    probability, steps = fault
    counters = self.counters.setdefault(name, np.zeros(shape, int))
    drawn = self.random.binomial(1, probability, shape)
    faulty = np.zeros(shape, bool)
    for index in np.ndindex(*shape):
      if counters[index] == 0 and drawn[index]:
        counters[index] = steps
      if counters[index] > 0:
        faulty[index] = True
        counters[index] -= 1
    return faulty

  def _stuck(self, name, value, fault):
    faulty = self._faulty(f"stuck {name}", value.shape, fault)
    value = np.where(faulty, self.previous.get(name, value), value)
    self.previous[name] = value
    return value

  def reset(self):
    if "pole_length" in self.set:
      low, high, std = self.set["pole_length"]
      self.random.normal(scale=std)
      length = self.random.uniform(low, high)
      xml, assets = cartpole.get_model_and_assets()
      xml = xml.decode().replace("0 0 0 0 0 1", f"0 0 0 0 0 {length}")
      xml = xml.replace('mass=".1"', f'mass="{length / 10}"')
      self.env.physics.reload_from_xml_string(xml, assets or common.ASSETS)
    step = self.env.reset()
    reward = self.env.task.get_reward(self.env.physics)
    return self._observe(step.observation, reward), None

  def step(self, action):
    it = self.set
    action = self._delayed("action", np.array(action, float))
    if self._on("action_noise", "observation_noise"):
      action = action + self.random.normal(scale=it["action_noise"], size=action.shape)
      action = np.clip(action, self.spec.minimum, self.spec.maximum)
    if self._on("dropped_actions", "dropped_observations"):
      faulty = self._faulty("dropped actions", action.shape, it["dropped_actions"])
      action = np.where(faulty, 0.0, action)
    if self._on("stuck_actions", "stuck_observations"):
      action = self._stuck("actions", action, it["stuck_actions"])
    if self._on("action_repetition"):
      probability, steps = it["action_repetition"]
      if self.holding > 0:
        action = self.held
        self.holding -= 1
      elif self.random.uniform() < probability:
        self.holding = steps - 1
      self.held = action
    step = self.env.step(action)
    if step.first():
      raise AssertionError("the loop must reset by itself")
    reward = step.reward
    if self.set.get("multiobj_weight"):
      weight, holds = it["multiobj_weight"], self.constraints(self.env.physics)
      reward = (1 - weight) * reward + weight * np.mean(holds)
    reward = self._delayed("reward", reward)
    return self._observe(step.observation, step.reward), reward

  def _observe(self, observation, raw_reward):
    it = self.set
    seen = collections.OrderedDict((k, np.array(v, float)) for k, v in observation.items())
    if self._on("action_noise", "observation_noise"):
      for key, value in seen.items():
        seen[key] = value + self.random.normal(scale=it["observation_noise"], size=value.shape)
    if self._on("dropped_actions", "dropped_observations"):
      for key, value in seen.items():
        faulty = self._faulty(f"dropped {key}", value.shape, it["dropped_observations"])
        seen[key] = np.where(faulty, 0.0, value)
    if self._on("stuck_actions", "stuck_observations"):
      for key, value in seen.items():
        seen[key] = self._stuck(key, value, it["stuck_observations"])
    if self.constraints and it.get("safety_observed", True):
      seen["constraints"] = np.array(self.constraints(self.env.physics), float)
    seen = dict(self._delayed("observation", seen))
    for number in range(it["dummy_observations"]):
      seen[f"dummy-{number}"] = np.array(self.random.normal())
    if it.get("multiobj_observed"):
      holds = self.constraints(self.env.physics)
      seen["multiobj"] = np.array([raw_reward, np.mean(holds)])
    return np.concatenate([np.ravel(value) for value in seen.values()])


def play(plain: PlainRwrl, actions: np.ndarray):
  """Observations [steps + 1, D], rewards and firsts [steps + 1] of the loop, as float32.

  An action given after the last step of an episode is ignored: the loop resets instead.
  """
  observation, _ = plain.reset()
  observations, rewards, firsts, elapsed = [observation], [0.0], [True], 0
  for action in actions:
    if elapsed == 1000:
      observation, reward, elapsed = plain.reset()[0], 0.0, 0
    else:
      observation, reward = plain.step(action)
      elapsed += 1
    observations.append(observation)
    rewards.append(reward)
    firsts.append(elapsed == 0)
  return np.array(observations, np.float32), np.array(rewards, np.float32), np.array(firsts)
