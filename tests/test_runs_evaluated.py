"""Evaluation of many runs on the device: scores as by a plain loop, training as without it."""

import dataclasses
import os
import signal
import types
from typing import NamedTuple

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from imageio.v2 import mimread

from selftune.core import train as training
from selftune.core.api.errors import UserError
from selftune.core.api.types import TimeStep
from selftune.core.evaluation import of_runs
from selftune.core.evaluation.scored import Scored
from selftune.core.experiment import Evaluation
from selftune.core.record import plotting
from selftune.core.record.workdir import Workdir
from selftune.core.runs.device import Runs
from selftune.core.runs.settings import Members
from selftune.plugins.metaopt.fixed import Fixed

pytestmark = pytest.mark.usefixtures("compiled_once")

CONFIG = f"""{fakes.MOUNTAIN_CAR_RUNS}
train.writers = (@jsonl(),)
runs.run_writers = (@jsonl(),)
runs.settings = {{'ac_lambda.alpha': (0.01, 0.02)}}
runs.episodes = 8
"""
EVALUATION = (
  "train.evaluation = @evaluation()",
  "evaluation.every_env_steps = 30",
  "evaluation.episodes = 3",
  "evaluation.num_envs = 2",
)


class Walk(NamedTuple):
  key: jax.Array
  x: jax.Array  # [4]
  end: jax.Array  # [] bool


@dataclasses.dataclass(frozen=True)
class Drawn:
  """Every step draws an observation, and ends the episode one time in six; actions are rewarded."""

  spec = small.SPEC

  def init(self, key):
    key, own = jax.random.split(key)
    x = jax.random.normal(own, (small.OBSERVATION,))
    one = jnp.float32(1)
    return Walk(key, x, jnp.bool_(False)), TimeStep(x, 0 * one, one, jnp.bool_(True))

  def step(self, state, action):
    key, of_x, of_end = jax.random.split(state.key, 3)
    x = jax.random.normal(of_x, (small.OBSERVATION,))
    end = ~state.end & (jax.random.uniform(of_end) < 1 / 6)
    reward = jnp.where(state.end, 0.0, action + state.x[0])
    discount = jnp.where(end, 0.0, 1.0)
    return Walk(key, x, end), TimeStep(x, reward, discount, state.end)


def loop(runs, states, run, evaluation, unroll_length):
  """Returns and lengths of one run's episodes by environment, and how many were cut."""
  fns, env = runs._built({})
  params = jax.tree.map(lambda x: x[run], jax.device_get(states.learner.params))
  actor = of_runs.actor_params(fns, types.SimpleNamespace(params=params, meta_state=()))
  key = jax.random.fold_in(jax.random.key(runs.members.seeds[run]), of_runs.STREAM)
  env_key, action_key = jax.random.split(key)
  b = evaluation.num_envs
  step, act = jax.jit(env.step), jax.jit(fns.act, static_argnums=5)
  begun = [jax.jit(env.init)(k) for k in jax.random.split(env_key, b)]
  at, timesteps = [x for x, _ in begun], [x for _, x in begun]
  share = [evaluation.episodes // b + (i < evaluation.episodes % b) for i in range(b)]
  found, so_far, cut, t = [[] for _ in range(b)], [[] for _ in range(b)], 0, 0
  while any(share):
    batch = jax.tree.map(lambda *x: jnp.stack(x), *timesteps)
    of_trajectory = jax.random.fold_in(action_key, t // unroll_length)
    actions, _, _ = act(
      actor, batch, (), of_trajectory, jnp.int32(t % unroll_length), evaluation.greedy
    )
    t += 1
    for i in range(b):
      at[i], timesteps[i] = step(at[i], actions[i])
      if timesteps[i].first:
        if share[i]:
          found[i].append((sum(so_far[i]), len(so_far[i])))
          share[i] -= 1
        so_far[i] = []
      else:
        if share[i] and len(so_far[i]) == evaluation.max_steps:
          found[i].append((sum(so_far[i]), len(so_far[i])))
          share[i], cut = 0, cut + 1
        so_far[i].append(float(timesteps[i].reward))
  return [x for of_env in found for x in of_env], cut


@pytest.mark.parametrize("greedy, max_steps", [(False, 100), (True, 7)])
def test_scores_are_those_of_a_plain_loop(greedy, max_steps, tmp_path, monkeypatch):
  monkeypatch.setattr(of_runs, "BLOCK", 8)  # several blocks
  evaluation = Evaluation(10, episodes=5, num_envs=2, max_steps=max_steps, greedy=greedy)
  members = Members(small.agent(Fixed()), (5, 6, 7), {}, 2, 3)
  runs = Runs(members, Drawn(), jax.devices()[:2], chunk=1)
  states = runs.init()
  rows, of_all = {}, []
  log = lambda logged: types.SimpleNamespace(log_evaluation=logged, flush=lambda: None)
  logs, logger = log(lambda row, number: rows.update({number: row})), log(of_all.append)
  experiment = types.SimpleNamespace(env=Drawn(), evaluation=evaluation, unroll_length=3)
  how = (experiment, Workdir(tmp_path), runs, logs, logger)
  of_runs.Scores(*how, lambda: True).look(states, 0, last=False)  # stopped, and made up for below
  assert not of_all and Scored(tmp_path).owed(0)
  scores = of_runs.Scores(*how, lambda: False)
  scores.look(states, 0, last=False)
  scores.look(states, 0, last=False)  # not due again
  assert not Scored(tmp_path).owed(0)
  assert len(of_all) == 1
  for run in range(3):
    episodes, cut = loop(runs, states, run, evaluation, 3)
    returns, lengths = np.array(episodes).T
    row = rows[run]
    assert (row["episodes"], row["cut"]) == (len(episodes), cut)
    assert cut == 0 or max_steps == 7
    names = ("mean", "std", "min", "max", "length")
    wanted = (returns.mean(), returns.std(), returns.min(), returns.max(), lengths.mean())
    np.testing.assert_allclose([row[name] for name in names], wanted, rtol=1e-5)
  means = [row["mean"] for row in rows.values()]
  assert len(set(means)) == 3
  (row,) = of_all
  found = [row[f"mean{x}"] for x in ("", "/least", "/greatest")]
  np.testing.assert_allclose(found, [np.mean(means), min(means), max(means)])


@pytest.fixture
def gin(tmp_path, monkeypatch):
  monkeypatch.setattr(plotting, "plot", lambda *args: None)
  path = tmp_path / "online.gin"
  path.write_text(CONFIG)
  return str(path)


@pytest.mark.slow
def test_training_is_the_same_to_the_bit_and_rows_go_to_every_log(gin, tmp_path):
  training.train(gin, (), tmp_path / "alone")
  training.train(gin, EVALUATION, tmp_path / "evaluated")
  assert fakes.checksums(tmp_path / "alone") == fakes.checksums(tmp_path / "evaluated")
  assert not (tmp_path / "alone" / "eval.jsonl").exists()
  rows = fakes.rows(tmp_path / "evaluated", "eval")
  # Each run makes 32 steps between two looks of the host, and 80 in all.
  assert [row["env_steps"] for row in rows] == [0, 64, 128, 160]
  assert {(row["mean"], row["mean/least"], row["episodes"], row["cut"]) for row in rows} == {
    (-9.0, -9.0, 3.0, 0.0)
  }
  for run in ("000", "001"):
    own = fakes.rows(tmp_path / "evaluated" / "runs" / run, "eval")
    assert [row["env_steps"] for row in own] == [0, 32, 64, 80]
    assert {(row["mean"], row["length"], row["episodes"]) for row in own} == {(-9.0, 9.0, 3)}
    assert "run" not in own[0]


@pytest.mark.slow
def test_what_a_signal_ended_is_made_up_for(gin, tmp_path, monkeypatch):
  scores = lambda path: [row | {"seconds": 0} for row in fakes.rows(path, "eval")]
  looks, real = [], of_runs.Scores.look

  def look(self, states, env_steps, last):
    looks.append(env_steps)
    if looks == stopped_at:
      os.kill(os.getpid(), signal.SIGTERM)
    real(self, states, env_steps, last)

  monkeypatch.setattr(of_runs.Scores, "look", look)
  stopped_at, run = [], tmp_path / "run"
  assert training.finish(gin, EVALUATION, tmp_path / "whole")
  assert looks == [0, 64, 128, 160]  # each of them scores
  for stopped_at in ([0, 64], [64, 128, 160]):  # in the middle, and at the end
    looks.clear()
    assert not training.finish(gin, EVALUATION, run) and not (run / "done").exists()
    assert looks == stopped_at
    assert scores(run) == scores(tmp_path / "whole")[: -1 if len(looks) == 3 else 1]
  looks.clear()
  assert training.finish(gin, EVALUATION, run) and looks == [160]
  assert scores(run) == scores(tmp_path / "whole")
  for number in ("000", "001"):
    whole, own = (scores(path / "runs" / number) for path in (tmp_path / "whole", run))
    assert own == whole and len(own) == 4
  assert fakes.checksums(run) == fakes.checksums(tmp_path / "whole")


@pytest.mark.slow
def test_the_first_run_is_recorded(monkeypatch, tmp_path):
  fakes.register(monkeypatch)
  monkeypatch.setattr(plotting, "plot", lambda *args: None)
  config = tmp_path / "drawn.gin"
  config.write_text("""include 'algos/impala.gin'
include 'suites/device.gin'
include 'envs/minatar.gin'
mlp.hidden = (8,)
runs.settings = {'rmsprop.learning_rate': (1e-3, 2e-3)}
runs.iterations = 1
train.num_envs = 4
train.unroll_length = 4
train.total_env_steps = 64
train.writers = (@jsonl(), @recorder())
""")
  training.train(config, (*EVALUATION, "evaluation.video = True"), tmp_path / "run")
  rows = fakes.rows(tmp_path / "run", "eval")
  videos = [tmp_path / "run" / "videos" / f"{row['env_steps']}.mp4" for row in rows]
  assert len(videos) > 1 and all(len(mimread(path)) > 2 for path in videos)
  assert fakes.MEDIA[: len(rows)] == [("eval/video", path) for path in videos]


@pytest.mark.parametrize(
  "env, video, message",
  [
    ("@mountain_car()", True, "environments of mountain_car cannot be drawn"),
    ("@envpool()\nenvpool.task = 'MountainCar-v0'", False, r"that of env @envpool\(\) is not"),
  ],
)
def test_what_is_refused(gin, tmp_path, env, video, message):
  text = CONFIG.replace("mountain_car.max_steps = 9\n", "").replace("@mountain_car()", env)
  (tmp_path / "online.gin").write_text(text)
  with pytest.raises(UserError, match=message):
    training.train(gin, (*EVALUATION, f"evaluation.video = {video}"), tmp_path / "run")
  assert not (tmp_path / "run").exists()
