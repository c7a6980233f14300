"""Every environment plugin against the contract of `Environment`, and what it is made of itself.

A new plugin adds lines to CASES; the conformance tests then hold it to the contract.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import envpool
import fakes
import numpy as np
import pytest
from dm_control import suite
from dm_env import specs

from selftune.core.api import registry
from selftune.core.api.errors import UserError
from selftune.core.api.types import TimeStep
from selftune.core.config import discovery
from selftune.core.evaluation.scores import normalised
from selftune.core.machine import seeding
from selftune.plugins.envs._atari57 import games
from selftune.plugins.envs._pool import Pool
from selftune.plugins.envs.atari import Atari
from selftune.plugins.envs.dm_control import DMControl
from selftune.plugins.envs.envpool import EnvPool
from selftune.plugins.envs.rwrl import Rwrl

pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered")  # of EnvPool's own bounds

SEEDS = (11, 2_000_000_005)


class Case(NamedTuple):
  """A configured plugin, and the same environments without it."""

  make: Callable[[], Any]  # -> plugin
  raw: Callable[[tuple[int, ...]], Any]  # seeds -> EnvPool, gymnasium type, or what acts like it
  ends: str  # how its episodes must end within `steps`: 'terminated' or 'truncated'
  steps: int = 100
  observation: Callable[[np.ndarray], np.ndarray] = lambda x: x  # what is shown of the raw one
  life_loss: bool = False  # discount 0 where a life is lost
  random: bool = True  # different seeds give different streams
  actions: tuple[int, ...] = ()  # repeated; random ones if empty


def raw(task: str, **options: Any) -> Callable[[tuple[int, ...]], Any]:
  return lambda seeds: envpool.make(
    task, "gymnasium", num_envs=len(seeds), seed=list(seeds), **options
  )


class RawSuite:
  """A task of dm_control behind EnvPool's interface, as far as `play_raw` uses that."""

  def __init__(self, domain: str, task: str, seeds: tuple[int, ...]):
    self._environments = [suite.load(domain, task, task_kwargs={"random": seed}) for seed in seeds]
    self._elapsed = np.zeros(len(seeds), int)

  def reset(self):
    return self._observations([env.reset() for env in self._environments]), {}

  def step(self, action):
    steps = [env.step(a) for env, a in zip(self._environments, action, strict=True)]
    first = np.array([step.first() for step in steps])
    self._elapsed = np.where(first, 0, self._elapsed + 1)
    reward = np.array([step.reward or 0.0 for step in steps], np.float32)
    terminated = np.array([step.last() and step.discount == 0 for step in steps])
    truncated = np.array([step.last() for step in steps]) & ~terminated
    info = {"elapsed_step": self._elapsed}
    return self._observations(steps), reward, terminated, truncated, info

  def _observations(self, steps):
    rows = [np.concatenate([np.ravel(v) for v in step.observation.values()]) for step in steps]
    return np.array(rows, np.float32)


def one_hot(size: int) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: (x.reshape(len(x), -1, 1) == np.arange(size)).reshape(len(x), -1)


def channels_last(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x, 1, -1)


def flat(*keys: str) -> Callable[[np.ndarray], np.ndarray]:
  return lambda x: np.column_stack([x[key] for key in keys]).astype(np.float32)


STICKY = {"repeat_action_probability": 0.25, "full_action_space": True, "noop_max": 1}
CASES = {
  "catch": Case(EnvPool, raw("Catch-v0"), "terminated"),
  "catch of another size": Case(
    lambda: EnvPool(options={"height": 6, "width": 7}),
    raw("Catch-v0", height=6, width=7),
    "terminated",
  ),
  "cartpole": Case(lambda: EnvPool("CartPole-v1"), raw("CartPole-v1"), "terminated"),
  "cartpole with a limit": Case(
    lambda: EnvPool("CartPole-v1", max_episode_steps=7),
    raw("CartPole-v1", max_episode_steps=7),
    "truncated",
  ),
  "mountain car": Case(
    lambda: EnvPool("MountainCar-v0"), raw("MountainCar-v0"), "truncated", steps=410
  ),
  "acrobot": Case(lambda: EnvPool("Acrobot-v1"), raw("Acrobot-v1"), "truncated", steps=510),
  "pendulum": Case(lambda: EnvPool("Pendulum-v1"), raw("Pendulum-v1"), "truncated", steps=210),
  "lunar lander": Case(
    lambda: EnvPool("LunarLander-v3"), raw("LunarLander-v3"), "terminated", steps=200
  ),
  "frozen lake": Case(
    lambda: EnvPool("FrozenLake-v1"),
    raw("FrozenLake-v1"),
    "terminated",
    observation=one_hot(16),
  ),
  "cliff walking": Case(
    lambda: EnvPool("CliffWalking-v1"),
    raw("CliffWalking-v1"),
    "terminated",
    observation=one_hot(48),
    random=False,
    actions=(0, *(1,) * 11, 2),  # up, along the cliff, down
  ),
  "taxi": Case(
    lambda: EnvPool("Taxi-v3"),
    raw("Taxi-v3"),
    "truncated",
    steps=210,
    observation=one_hot(500),
  ),
  "nchain": Case(
    lambda: EnvPool("NChain-v0", max_episode_steps=50),
    raw("NChain-v0", max_episode_steps=50),
    "truncated",
    observation=one_hot(5),
  ),
  "blackjack": Case(
    lambda: EnvPool("Blackjack-v1"), raw("Blackjack-v1"), "terminated", observation=one_hot(32)
  ),
  "breakout": Case(
    Atari,
    raw("Breakout-v5"),
    "terminated",
    steps=300,
    observation=channels_last,
    life_loss=True,
  ),
  "breakout, sticky": Case(
    lambda: Atari(protocol="sticky", max_episode_steps=40),
    raw("Breakout-v5", max_episode_steps=40, **STICKY),
    "truncated",
    observation=channels_last,
  ),
  "dm_control": Case(
    DMControl,
    raw("CartpoleSwingup-v1"),
    "truncated",
    steps=1010,
    observation=flat("position", "velocity"),
  ),
  "dm_control, reward repeated on FIRST": Case(
    lambda: DMControl("walker", "walk"),
    raw("WalkerWalk-v1"),
    "truncated",
    steps=1010,
    observation=flat("orientations", "height", "velocity"),
  ),
  "dm_control, zeros dropped": Case(
    lambda: DMControl("finger", "spin"),
    raw("FingerSpin-v1"),
    "truncated",
    steps=1010,
    observation=flat("position", "velocity", "touch"),
  ),
  "dm_control, order": Case(
    lambda: DMControl("fish", "swim"),
    raw("FishSwim-v1"),
    "truncated",
    steps=1010,
    observation=flat("joint_angles", "upright", "target", "velocity"),
  ),
  "cartpole swingup in workers": Case(
    lambda: Rwrl("cartpole"),
    lambda seeds: RawSuite("cartpole", "swingup", seeds),
    "truncated",
    steps=1010,
  ),
}


class Record(NamedTuple):
  """A run of a case's plugin and of EnvPool, with the same seeds and actions."""

  case: Case
  spec: Any
  actions: np.ndarray  # [steps, B, ...]
  got: list[TimeStep]
  got_at_once: list[TimeStep]  # copies, made as each came
  want: list[TimeStep]
  want_returns: list[float]
  ended: np.ndarray  # [steps + 1, B] of the raw run
  terminated: np.ndarray  # [steps + 1, B] of the raw run


def choose_actions(case: Case, spec: specs.Array) -> np.ndarray:
  if case.actions:
    return np.resize(case.actions, (len(SEEDS), case.steps)).T
  return random_actions(spec, case.steps)


def random_actions(spec: specs.Array, steps: int) -> np.ndarray:
  rng, num_envs = np.random.default_rng(0), len(SEEDS)
  if isinstance(spec, specs.DiscreteArray):
    return rng.integers(spec.num_values, size=(steps, num_envs))
  assert isinstance(spec, specs.BoundedArray)
  return rng.uniform(spec.minimum, spec.maximum, (steps, num_envs, *spec.shape))


def play(plugin: Any, seeds: tuple[int, ...], actions: np.ndarray) -> list[TimeStep]:
  pool = plugin.make(seeds)
  steps = [pool.reset()]
  for action in actions:
    pool.send(action)
    steps.append(pool.recv())
  pool.close()
  return steps


def play_raw(case: Case, seeds: tuple[int, ...], actions: np.ndarray):
  """The contract, spelt out one environment at a time over EnvPool's own interface."""
  pool, num_envs = case.raw(seeds), len(seeds)
  observation, info = pool.reset()
  blank = np.zeros(num_envs)
  steps = [TimeStep(case.observation(observation), blank, blank + 1, blank == 0)]
  terminations, ends, returns, running = [blank > 0], [blank > 0], [], np.zeros(num_envs)
  for action in actions:
    before = info
    observation, rewards, terminated, truncated, info = pool.step(action)
    reward, discount, first = np.zeros(num_envs), np.ones(num_envs), np.zeros(num_envs, bool)
    for i in range(num_envs):
      if info["elapsed_step"][i] == 0:
        first[i] = True
        continue
      reward[i] = rewards[i]
      running[i] += rewards[i]
      lost = case.life_loss and info["lives"][i] < before["lives"][i]
      discount[i] = 0 if terminated[i] or lost else 1
      if terminated[i] or truncated[i]:
        returns.append(running[i])
        running[i] = 0.0
    steps.append(TimeStep(case.observation(observation), reward, discount, first))
    terminations.append(terminated)
    ends.append(terminated | truncated)
  return steps, returns, np.array(ends), np.array(terminations)


ENDING = {  # tasks whose first episode ends of itself, with these actions
  "CartPole-v1": 1,
  "phys2d/CartPole-v1": 1,
  "MountainCarContinuous-v0": None,
  "FrozenLake-v1": 2,
  "LunarLander-v3": 0,
  "BipedalWalker-v3": [0.9, -0.3, 0.4, 0.8],
}


@pytest.mark.parametrize("task", ENDING)
def test_what_ends_on_the_last_step_of_its_limit_has_ended(task):
  """Otherwise the stream is that of EnvPool with this limit, of environments out of step too."""

  def action(observation):
    if ENDING[task] is not None:
      return np.array([ENDING[task]] * 3)
    return np.sign(observation[:, 1:] + 1e-9)  # pushes as it moves, up to the goal

  def streams(limit, steps):
    pool = EnvPool(task, limit).make((3, 4, 5))
    other = raw(task, **({} if limit is None else {"max_episode_steps": limit}))((3, 4, 5))
    got, (observation, _) = pool.reset(), other.reset()
    both = []
    for _ in range(steps):
      np.testing.assert_array_equal(got.observation, as_shown(observation))
      pool.send(action(got.observation))
      observation, reward, terminated, truncated, info = other.step(action(got.observation))
      got = pool.recv()
      both.append((got, reward, terminated, truncated, info["elapsed_step"]))
    pool.close()
    return both

  as_shown = (lambda x: np.eye(16, dtype=np.float32)[x]) if "Frozen" in task else lambda x: x
  ends = np.array([terminated for _, _, terminated, *_ in streams(None, 250)])
  first_end = ends.argmax(axis=0) + 1
  assert ends.any(axis=0).all()
  limit = int(np.median(first_end))
  at_limit = 0
  for t, (got, reward, terminated, truncated, elapsed) in enumerate(streams(limit, 3 * limit), 1):
    np.testing.assert_array_equal(got.first, elapsed == 0)
    np.testing.assert_array_equal(got.reward, np.where(elapsed == 0, 0, reward))
    ended = terminated | (truncated & (first_end == limit) & (t == limit))
    sure = (t <= limit) | ~truncated  # how later episodes end, nobody knows but ours
    np.testing.assert_array_equal(got.discount[sure], 1 - ended[sure])
    at_limit += (truncated & ended).sum()
    assert not ((got.discount == 0) & ~terminated & ~truncated).any()
  assert at_limit >= 1


@pytest.mark.parametrize("protocol", ["sticky", "paper"])
def test_a_game_that_is_over_on_the_last_step_of_its_limit_is_over(protocol):
  actions = np.ones((600, 1), int)
  free = play(Atari(protocol=protocol, life_loss_terminates=False), (5,), actions)
  (over, *_) = np.flatnonzero([step.discount[0] == 0 for step in free])
  limit = lambda steps: Atari(
    protocol=protocol, life_loss_terminates=False, max_episode_steps=int(steps)
  )
  for steps, discount in ((over, 0), (over + 1, 0), (over - 1, 1)):
    last = play(limit(steps), (5,), actions[: min(over, steps) + 1])
    assert (last[-2].discount, last[-1].first) == (discount, True)


@pytest.fixture(scope="module", params=CASES, ids=lambda name: name.replace(" ", "-"))
def record(request) -> Record:
  case = CASES[request.param]
  pool = case.make().make(SEEDS)
  actions = choose_actions(case, pool.spec.action)
  got, copies = [pool.reset()], []
  copies.append(TimeStep(*map(np.copy, got[0])))
  for action in actions:
    pool.send(action)
    got.append(pool.recv())
    copies.append(TimeStep(*map(np.copy, got[-1])))
  spec = pool.spec
  pool.close()
  return Record(case, spec, actions, got, copies, *play_raw(case, SEEDS, actions))


def stacked(steps: list[TimeStep]) -> TimeStep:
  return TimeStep(*(np.stack(arrays) for arrays in zip(*steps, strict=True)))


def test_shapes_and_dtypes_are_those_of_the_spec(record):
  for step in record.got:
    assert step.observation.dtype == record.spec.observation.dtype
    assert step.observation.shape == (len(SEEDS), *record.spec.observation.shape)
    for array, dtype in ((step.reward, "f4"), (step.discount, "f4"), (step.first, "?")):
      assert array.dtype == dtype and array.shape == (len(SEEDS),)


def test_stream_is_aligned_with_envpool(record):
  """Reward and discount led to the observation beside them: equal to EnvPool's, step by step."""
  for t, (got, want) in enumerate(zip(record.got, record.want, strict=True)):
    for field in TimeStep._fields:
      np.testing.assert_array_equal(getattr(got, field), getattr(want, field), f"{field} at {t}")


def test_first_follows_the_end_of_an_episode_and_nothing_else(record):
  got = stacked(record.got)
  assert got.first[0].all()
  np.testing.assert_array_equal(got.first[1:], record.ended[:-1])
  assert (got.reward[got.first] == 0).all()
  assert (got.discount[got.first] == 1).all()


def test_episodes_end_as_they_should(record):
  """Discount 0 at termination; at truncation 1, so that learners bootstrap through it."""
  got = stacked(record.got)
  assert (got.discount[record.terminated] == 0).all()
  truncated = record.ended & ~record.terminated
  if record.case.ends == "terminated":
    assert record.terminated[:-1].any(), "the case never terminates: give it more steps"
  else:
    assert truncated[:-1].any(), "the case is never truncated: give it more steps"
  if record.case.life_loss:
    lives_lost = got.discount == 0
    assert lives_lost.sum() > record.terminated.sum()  # play goes on after a life
  else:
    np.testing.assert_array_equal(got.discount == 0, record.terminated)


def test_episode_returns_are_raw_and_close_with_the_episode(record):
  returns, running = [], np.zeros(len(SEEDS))
  got = stacked(record.got)
  for t in range(len(got.first) - 1):
    running += got.reward[t]
    for i in np.flatnonzero(got.first[t + 1]):
      returns.append(running[i])
      running[i] = 0.0
  # An episode that ends on the very last step has no FIRST after it yet.
  assert returns == record.want_returns[: len(returns)]
  assert len(returns) == record.ended[:-1].sum() > 0


def test_arrays_are_never_written_to_again(record):
  for step, copy in zip(record.got, record.got_at_once, strict=True):
    for array, as_it_came in zip(step, copy, strict=True):
      np.testing.assert_array_equal(array, as_it_came)


def test_streams_depend_on_their_own_seed_only(record):
  """Environment i of a pool is what its seed says, whatever the pool and its threads."""
  steps = min(record.case.steps, 40)
  actions = np.repeat(record.actions[:steps, 1:2], 2, axis=1)
  moved = stacked(play(record.case.make(), (SEEDS[1], SEEDS[1] + 1), actions))
  for field, field_moved in zip(stacked(record.got[: steps + 1]), moved, strict=True):
    np.testing.assert_array_equal(field[:, 1], field_moved[:, 0])
  observation = moved.observation
  assert np.array_equal(observation[:, 0], observation[:, 1]) != record.case.random


def test_every_registered_environment_has_a_case():
  discovery.load_all()
  built_in = {
    cls
    for cls in registry.plugins()["env"].values()
    if cls.__module__.startswith("selftune.plugins")
    and not hasattr(cls, "init")  # on the device: those have tests of their own
  }
  assert built_in == {type(case.make()) for case in CASES.values()}


def test_reward_on_first_is_zero_where_envpool_repeats_the_last():
  options = {"max_episode_steps": 4}
  actions = np.zeros((10, 2, 6))
  pool = envpool.make("WalkerWalk-v1", "gymnasium", num_envs=2, seed=list(SEEDS), **options)
  pool.reset()
  want = np.array([pool.step(action)[1] for action in actions])
  assert (want[4::5] > 0).all()  # the steps that reset
  want[4::5] = 0
  pool = Pool(
    "WalkerWalk-v1",
    SEEDS,
    observation=specs.Array((), np.float32),
    observe=lambda observation: observation["height"].astype(np.float32),
    options=options,
  )
  got = [pool.reset()]
  for action in actions:
    pool.send(action)
    got.append(pool.recv())
  np.testing.assert_array_equal(stacked(got).reward, [[0, 0], *want])
  np.testing.assert_array_equal(stacked(got).discount, np.ones((11, 2)))
  np.testing.assert_array_equal(stacked(got).first[:, 0], np.arange(11) % 5 == 0)


def test_steps_run_between_send_and_recv():
  pool = Atari(num_threads=1).make(tuple(range(24)))  # a step takes long beside a wake-up
  pool.reset()
  actions = np.zeros(24, int)

  def work() -> tuple[float, float]:
    """CPU time of all threads before `recv`, and in it: however busy the machine is."""
    start = time.process_time()
    pool.send(actions)
    time.sleep(0.1)
    sent = time.process_time()
    pool.recv()
    return sent - start, time.process_time() - sent

  before, within = np.median([work() for _ in range(9)], axis=0)
  pool.close()
  assert within < before / 2


def test_a_pool_can_be_closed_with_a_step_in_flight():
  pool = Atari().make((1, 2))
  pool.reset()
  pool.send(np.zeros(2, int))
  start = time.perf_counter()
  pool.close()
  assert time.perf_counter() - start < fakes.SOON


def test_life_loss_discounts_equal_envpools_own():
  """EnvPool's dm type can zero the discount at life loss itself."""
  options = {"num_envs": len(SEEDS), "seed": list(SEEDS), "zero_discount_on_life_loss": True}
  dm = envpool.make("Breakout-v5", "dm", **options)
  actions = random_actions(dm.action_spec(), 150)
  want = [dm.reset().discount, *(dm.step(a).discount for a in actions)]
  got = stacked(play(Atari(), SEEDS, actions)).discount
  np.testing.assert_array_equal(got, want)
  assert (got == 0).sum() > 3


def test_atari_keeps_the_newest_frame_last():
  steps = play(Atari(), (5,), np.ones((6, 1), int))
  for before, after in itertools.pairwise(steps):
    np.testing.assert_array_equal(after.observation[..., :3], before.observation[..., 1:])


@pytest.mark.parametrize("protocol, actions", [("paper", 4), ("sticky", 18)])
def test_action_sets_of_the_protocols(protocol, actions):
  assert Atari(protocol=protocol).make((0,)).spec.action.num_values == actions


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: EnvPool("Cathc-v0"), r"envpool\.task = 'Cathc-v0'.* Did you mean 'Catch-v0'"),
    (lambda: EnvPool("catch-v0"), r"Did you mean 'Catch-v0'"),
    (lambda: EnvPool("Breakout-v5"), r"'Breakout-v5' does not exist"),
    (lambda: EnvPool("WalkerWalk-v1"), r"'WalkerWalk-v1' does not exist"),
    (lambda: EnvPool("CartPole-v1", max_episode_steps=0), r"= 0 must be at least 1.*itself, 500"),
    (lambda: EnvPool("Catch-v0", max_episode_steps=5), r"Catch-v0 has no time limit"),
    (lambda: EnvPool(options={"hight": 8}), r"Did you mean 'height'\?"),
    (lambda: EnvPool(options={"seed": 8}), r"'seed' does not exist"),
    (lambda: EnvPool(options={"height": 8.0}), r"'height' must be of type int.*got 8\.0"),
    (lambda: EnvPool(options={"height": 0}), r"leaves no observation"),
    (lambda: EnvPool(options={"height": -3}), r"leaves no observation"),
    (lambda: Atari("brekout"), r"atari\.game = 'brekout' does not exist\. Did you mean 'breakout'"),
    (lambda: Atari("Breakout-v5"), r"Did you mean 'breakout'"),
    (lambda: Atari(protocol="stick"), r"Did you mean 'sticky'"),  # type: ignore
  ],
)
def test_mistakes_are_told_before_any_pool_is_made(make, message):
  with pytest.raises(UserError, match=message):
    make()


@pytest.mark.slow
def test_plugins_do_not_import_simulators_until_one_is_used():
  code = (
    "import sys; from selftune.core.config import discovery; discovery.load_all(); "
    "from selftune.plugins.envs import atari, dm_control, envpool, rwrl; "
    "atari.Atari(); dm_control.DMControl(); rwrl.Rwrl(); "
    "assert not {'envpool', 'gymnasium', 'dm_control.suite'} & set(sys.modules); "
    "envpool.EnvPool(); assert 'envpool' in sys.modules"
  )
  subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_game_exists_in_envpool():
  assert len(games()) == 57
  assert {game.task for game in games().values()} <= set(envpool.list_all_envs())


def test_normalised_scores():
  reference = Atari(game="breakout").reference_scores  # of random and of human play: 1.7 and 30.5
  found = normalised(np.array([1.7, 30.5, 1.7 + 2.5 * 28.8]), reference)
  np.testing.assert_allclose(found, [0, 1, 2.5])


def test_seeds_of_runs_restarts_and_pools_do_not_overlap():
  groups = [
    seeding.env_seeds(run, restart, pool, 64)
    for run in range(4)
    for restart in range(3)
    for pool in range(4)
  ]
  everything = [seed for group in groups for seed in group]
  assert len(set(everything)) == len(everything)
  assert all(0 <= seed < 2**31 for seed in everything)


def test_seeds_are_reproducible():
  assert seeding.env_seeds(3, 1, 2, 4) == seeding.env_seeds(3, 1, 2, 4)
  assert seeding.env_seeds(3, 1, 2, 8)[:4] == seeding.env_seeds(3, 1, 2, 4)
  with pytest.raises(ValueError):
    seeding.env_seeds(-1, 0, 0, 4)
