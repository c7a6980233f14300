"""The learner: devices and micro-batches, donation, failures, resuming; `tune = ()` is `fixed`."""

import contextlib
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.api.errors import NonFiniteError, UserError
from selftune.core.api.failures import INPUTS, check_order, first_failure, not_finite, without_flags
from selftune.core.api.types import BATCH_AXES, Trajectory
from selftune.core.experiment import Outer
from selftune.core.record.checkpoint import Checkpointer
from selftune.plugins.metaopt._context import Context
from selftune.plugins.metaopt._judge import Bootstrap
from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.metaopt.metagradient import Metagradient

T, B = 3, 4
tuned = functools.partial(
  Metagradient,
  tune=("leaky_vtrace.gamma", "value.cost", "rmsprop.*"),
  learning_rate=0.1,
)
AGENTS = {
  "fixed": lambda: small.agent(Fixed()),
  "untuned": lambda: small.agent(Metagradient()),
  "stac": lambda: small.agent(tuned()),
  "stacx": lambda: small.agent(tuned(), heads=3),
  "next": lambda: small.agent(tuned(outer_batch="next"), heads=2),
  "fresh": lambda: small.agent(
    tuned(inner_updates=2, outer_batch="fresh", bootstrap=Bootstrap(2), context=Context()),
    heads=2,
    outer=Outer(critic="stopped", normalise=False),
  ),
  "held_out": lambda: small.agent(tuned(outer_batch="held_out")),
  "replayed": lambda: small.agent(tuned(outer_batch="replayed", replay=2)),
}
BATCHES = [small.trajectory(seed, T, B) for seed in range(4)]


@functools.cache
def compiled(name, devices, micro_batch):
  learner = small.learner(AGENTS[name](), devices, B, T, micro_batch)
  return learner, small.first_state(learner, BATCHES[0])


def start(name, devices=1, micro_batch=None):
  """A learner, compiled once for all tests, and its first state."""
  learner, state = compiled(name, devices, micro_batch)
  return learner, jax.tree.map(lambda x: x.copy(), state)


def train(learner, state, batches):
  for n, batch in enumerate(batches):
    state, metrics = learner.update(state, learner.put(batch), n % learner.phases)
  return state, jax.device_get(metrics)


def on_host(state):
  return jax.device_get(state._replace(key=jax.random.key_data(state.key)))


def assert_equal(actual, expected, **tolerance):
  """Of LearnerStates; to the bit unless there is a tolerance."""
  check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
  actual, expected = on_host(actual), on_host(expected)
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(lambda a, e: check(a, e, **tolerance), actual, expected)


def without_logs(state):
  """A state without the metrics that phases keep for each other: some are means of means."""
  if getattr(state.meta_state, "last", ()):
    return state._replace(meta_state=state.meta_state._replace(last=()))
  return state


def moved(learner, before, after):
  """How far the parameters and etas went."""
  etas = lambda state: getattr(state.meta_state, "etas", {})
  distance = lambda a, b: float(np.max(np.abs(a - b)))
  before, after = on_host(before), on_host(after)
  return jax.tree.map(distance, (before.params, etas(before)), (after.params, etas(after)))


@contextlib.contextmanager
def compilations():
  """The list of what XLA compiles meanwhile."""
  compiled = []

  def listener(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listener)
  try:
    yield compiled
  finally:
    jax.monitoring.unregister_event_duration_listener(listener)


# One device, two devices, micro-batches.


@pytest.mark.parametrize(
  "name, devices, micro_batch",
  [
    ("fixed", 2, 1),
    pytest.param("stacx", 2, 1, marks=pytest.mark.slow),
    pytest.param("fixed", 2, None, marks=pytest.mark.slow),
    pytest.param("fixed", 1, 2, marks=pytest.mark.slow),
    pytest.param("stac", 2, None, marks=pytest.mark.slow),
    pytest.param("stac", 2, 1, marks=pytest.mark.slow),
    pytest.param("stacx", 2, None, marks=pytest.mark.slow),
    pytest.param("stacx", 1, 2, marks=pytest.mark.slow),
    pytest.param("next", 2, None, marks=pytest.mark.slow),
    pytest.param("next", 2, 1, marks=pytest.mark.slow),
    pytest.param("fresh", 2, 1, marks=pytest.mark.slow),
    pytest.param("held_out", 2, None, marks=pytest.mark.slow),
    pytest.param("replayed", 2, 1, marks=pytest.mark.slow),
  ],
)
def test_devices_and_micro_batches_change_nothing(name, devices, micro_batch):
  learner, first = start(name)
  expected, metrics = train(*start(name), BATCHES[:3])
  state, split_metrics = train(*start(name, devices, micro_batch), BATCHES[:3])
  assert_equal(without_logs(state), without_logs(expected), rtol=1e-4, atol=1e-5)
  assert min(jax.tree.leaves(moved(learner, first, expected))) > 1e-3  # there is something to see
  # Sums are exact; means are of means over micro-batches, so only they may differ.
  sums = [n for n in metrics if n.startswith("metagrad") or n in ("grad_norm", "param_norm")]
  assert len(sums) >= 2
  # And a maximum is that of the whole batch.
  sums += [n for n in metrics if n.startswith("is_ratio/max/")]
  for name in sums:
    np.testing.assert_allclose(split_metrics[name], metrics[name], rtol=1e-3, err_msg=name)


@pytest.mark.parametrize(
  "devices, batch, micro_batch, message",
  [
    (2, 5, None, "a batch of 5 .* not divisible by 2 learner devices; choose a multiple of 2"),
    (2, 8, 3, "micro_batch = 3 does not divide the 4 trajectories .* of 2 learner devices"),
  ],
)
def test_batches_that_do_not_split(devices, batch, micro_batch, message):
  with pytest.raises(UserError, match=message):
    small.learner(AGENTS["fixed"](), devices, batch, T, micro_batch)


def rows(batch, which):
  """Some trajectories of a batch."""
  cut = lambda axis, tree: jax.tree.map(lambda x: x[(slice(None),) * axis + (which,)], tree)
  return Trajectory(*map(cut, BATCH_AXES, batch))


@dataclasses.dataclass(frozen=True)
class HeldOut:
  """Learns from the first `learned` trajectories of a device's share, and looks at the last one."""

  learned: int = 6
  stacked_over: int | None = None  # how many trajectories the second pass takes; None: those

  check, init = lambda self, _: None, lambda self, *_: ()
  values, describe = lambda self, *_: {}, lambda self, _: {}

  def step(self, fns, state, batch):
    loss = lambda params, part: fns.inner_loss(params, {}, part)[0]
    first, last = rows(batch, slice(self.learned)), rows(batch, slice(-1, None))
    both = lambda part: (jax.grad(loss)(state.params, part), (), loss(state.params, part))
    grads, _, losses = fns.accumulate(both, first)
    second = rows(batch, slice(self.stacked_over or self.learned))
    again, _, _ = fns.accumulate(lambda _, loss: (loss, (), ()), second, losses)
    held_out, _, _ = fns.accumulate(lambda part: (loss(state.params, part), (), ()), last)
    params, _ = fns.optimizer_step(state.params, grads, state.opt_state, state.step, {})
    metrics = {"parts": jnp.float32(len(losses)), "again": again, "held_out": held_out}
    return state._replace(params=params), metrics


def held_out(devices, micro_batch, **settings):
  """The state and metrics of one update, of shares of 8."""
  learner = small.learner(
    small.agent(HeldOut(**settings), heads=2), devices, 8 * devices, T, micro_batch
  )
  batch = small.trajectory(0, T, 8 * devices)
  return train(learner, small.first_state(learner, batch), [batch])


@pytest.mark.parametrize(
  "devices, micro_batch, parts",
  [(2, 4, 2), *(pytest.param(1, *rest, marks=pytest.mark.slow) for rest in ((4, 2), (1, 6)))],
)
def test_a_part_of_a_batch_is_split_too(devices, micro_batch, parts):
  expected, metrics = held_out(devices, None)
  state, split_metrics = held_out(devices, micro_batch)
  assert_equal(state, expected, rtol=1e-5, atol=1e-6)
  assert (metrics["parts"], split_metrics["parts"]) == (1, parts)
  for name in ("again", "held_out"):
    np.testing.assert_allclose(split_metrics[name], metrics[name], rtol=1e-5)


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"learned": 0}, "gives fns.accumulate an empty part of a batch"),
    (
      {"stacked_over": 8},
      "a batch of 4 micro-batches and results stacked over 3: give",
    ),
  ],
)
def test_parts_that_do_not_fit_are_refused(settings, message):
  with pytest.raises(UserError, match=message):
    held_out(1, 2, **settings)


# The outer loss on the next batch.


def test_what_is_logged_of_eta_is_what_eta_is():
  """From the first update on, before which there was none to judge."""
  learner, state = start("next")
  etas = [on_host(state).meta_state.etas]
  for batch in BATCHES[:3]:
    state, metrics = learner.update(state, learner.put(batch))
    etas.append(on_host(state).meta_state.etas)
    values = learner._fns.values(state.meta_state)
    for kind, expected in (("eta", etas[-1]), ("tuned", values)):
      for name, numbers in expected.items():
        logged = [metrics[f"{kind}/{name}/{p}"] for p in range(len(numbers))]
        np.testing.assert_allclose(logged, numbers, rtol=1e-6, err_msg=name)
    nothing = [n for n, x in metrics.items() if n.startswith(("metagrad", "outer_loss")) and x == 0]
    count = sum(n.startswith(("metagrad", "outer_loss")) for n in metrics)
    assert len(nothing) == (count if len(etas) == 2 else 0)
  moved = [jax.tree.leaves(jax.tree.map(np.subtract, b, a)) for a, b in itertools.pairwise(etas)]
  assert not np.concatenate(moved[0]).any()
  assert np.concatenate(moved[1]).all() and np.concatenate(moved[2]).all()


# Tuning nothing.


def test_tuning_nothing_is_fixed_to_the_bit():
  learner, first = start("fixed")
  fixed, fixed_metrics = train(*start("fixed"), BATCHES)
  untuned, metrics = train(*start("untuned"), BATCHES)
  assert_equal(untuned._replace(meta_state=()), fixed)
  assert metrics.keys() == fixed_metrics.keys()
  for name in metrics:
    np.testing.assert_array_equal(metrics[name], fixed_metrics[name], err_msg=name)
  assert min(jax.tree.leaves(moved(learner, first, fixed)[0])) > 1e-3


# Metrics.


def test_metrics():
  learner, state = start("stacx")
  etas = on_host(state).meta_state.etas
  state, metrics = train(learner, state, BATCHES[:3])
  assert all(np.isfinite(x) and np.shape(x) == () for x in metrics.values())
  assert (metrics["updates"], metrics["failure"], metrics["policy_lag"]) == (3, -1, 2)
  for name, eta in on_host(state).meta_state.etas.items():
    assert np.all(eta != etas[name])
    for p, x in enumerate(eta):
      assert metrics[f"eta/{name}/{p}"] == x
  norm = lambda prefix: np.sqrt(sum(x**2 for n, x in metrics.items() if n.startswith(prefix)))
  np.testing.assert_allclose(metrics["metagrad_norm"], norm("metagrad/"), rtol=1e-5)
  params = [np.sum(x**2) for x in jax.tree.leaves(on_host(state).params)]
  np.testing.assert_allclose(metrics["param_norm"], np.sqrt(sum(params)), rtol=1e-5)


# Buffers.


def test_published_parameters_outlive_the_state():
  learner, state = start("stacx", 2, 1)
  device = jax.devices()[1]
  expected = on_host(start("stacx", 2, 1)[1])  # to look at a buffer keeps it from being donated
  old, published = state, learner.actor_params(state, [device])[device]
  state, _ = learner.update(state, learner.put(BATCHES[0]))
  assert all(x.is_deleted() for x in jax.tree.leaves((old.params, old.opt_state)))  # donated
  assert all(x.devices() == {device} for x in jax.tree.leaves(published))
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(published.params), expected.params)
  gamma = 1 / (1 + np.exp(-expected.meta_state.etas["leaky_vtrace.gamma"]))
  np.testing.assert_allclose(published.gamma, gamma, rtol=1e-6)


@pytest.mark.parametrize(
  "name, devices, micro_batch",
  [("stacx", 2, 1), pytest.param("next", 2, None, marks=pytest.mark.slow)],
)
def test_updates_transfer_nothing_unasked_and_compile_once(name, devices, micro_batch, tmp_path):
  learner, state = start(name, devices, micro_batch)
  state, _ = train(learner, state, BATCHES[:1])
  learner.actor_params(state, jax.devices()[:1])
  checkpoints = Checkpointer(tmp_path)
  checkpoints.save(1, state, {})
  checkpoints.close()
  restored = Checkpointer(tmp_path).restore(state)
  assert restored is not None
  with jax.transfer_guard("disallow"), compilations() as compiled:
    for current in (state, restored.state):
      for batch in BATCHES[1:]:
        current, _ = learner.update(current, learner.put(batch))
        learner.actor_params(current, jax.devices()[:1])
  assert not compiled
  with compilations() as compiled:
    jax.jit(lambda x: x + 1)(0)
  assert compiled  # they are seen


def test_the_first_update_is_compiled_from_the_trace(monkeypatch):
  traced, step = [], Fixed.step
  monkeypatch.setattr(Fixed, "step", lambda *args: traced.append(1) or step(*args))
  learner = small.learner(small.agent(Fixed()), 2, B, T)
  state = small.first_state(learner, BATCHES[0])
  learner.trace(state)
  train(learner, state, BATCHES[:2])
  assert len(traced) == 1


# Failures.


def poisoned(batch, b=0):
  """A reward that is not a number, at the first valid transition of environment `b`."""
  t = int(np.argmin(batch.timestep.first[1:, b])) + 1
  assert not batch.timestep.first[t, b]
  reward = batch.timestep.reward.copy()
  reward[t, b] = np.nan
  return batch._replace(timestep=batch.timestep._replace(reward=reward))


@pytest.mark.parametrize(
  "name, devices, micro_batch",
  [("stacx", 2, 1), pytest.param("next", 2, None, marks=pytest.mark.slow)],
)
def test_a_number_that_is_not_finite(name, devices, micro_batch):
  learner, state = start(name, devices, micro_batch)
  state, metrics = train(learner, state, BATCHES[:2])
  learner.check(metrics)
  good = jax.tree.map(lambda x: x.copy(), state)
  # Later good batches do not hide it, and do not change the state.
  for batches in ([poisoned(BATCHES[2], b=3)], BATCHES[:2]):
    state, metrics = train(learner, state, batches)
    message = "'reward of train.env' was not finite in update 3; the state before that update"
    with pytest.raises(NonFiniteError, match=message):
      learner.check(metrics)
    assert_equal(state._replace(failure=good.failure), good)


def test_the_earliest_cause_is_named():
  poisoned_by = [  # each makes all that follow not finite
    "loss/value/0",
    "loss/total/0",
    "grad_norm",
    "outer_loss/value",
    "outer_loss/total",
    "metagrad/value.cost/0",
    "metagrad_norm",
    "entropy/0",
    "param_norm",
  ]
  assert check_order(sorted(poisoned_by)) == poisoned_by
  learner, _ = compiled("fixed", 1, None)
  names = ["grad_norm", "loss/value/0", "variance/0", "policy_lag"]
  metrics = dict.fromkeys(names, 0.0) | {"updates": 5}
  inputs = [f"{name} of train.env" for name in INPUTS]
  made = ["output of SmallNetwork", r"targets of corrector @leaky_vtrace\(\)"]
  for i, cause in enumerate([*inputs, *made, *check_order(names)]):
    with pytest.raises(NonFiniteError, match=f"^'{cause}' was not finite in update 6;"):
      learner.check(metrics | {"failure": i})


@pytest.mark.parametrize("bad", INPUTS)
def test_inputs_are_the_cause_only_where_a_metric_is_not_finite(bad):
  timestep = BATCHES[0].timestep
  timestep = timestep._replace(**{bad: np.where(timestep.first.any(), np.inf, 0.0)})
  bad_inputs = not_finite(timestep)
  assert bad_inputs.tolist() == [name == bad for name in INPUTS]
  finite = {"loss": 1.0, "grad_norm": np.float32(2)}
  assert first_failure(finite, bad_inputs) == -1
  assert first_failure(finite | {"loss": np.nan}, bad_inputs) == INPUTS.index(bad)
  fine = np.zeros(3, bool)
  assert first_failure(finite | {"loss": np.nan}, fine) == 5 + check_order(finite).index("loss")


def test_the_network_or_the_corrector_is_the_cause():
  fine = np.zeros(3, bool)
  flags = {f"not_finite/{who}/{p}": 0.0 for who in ("network", "corrector") for p in range(2)}
  bad = flags | {"loss": np.nan}
  assert first_failure(flags | {"loss": 0.0, "not_finite/network/1": 0.1}, fine) == -1
  assert first_failure(bad, fine) == 5
  assert first_failure(bad | {"not_finite/corrector/1": 0.1}, fine) == 4
  assert first_failure(bad | {"not_finite/network/1": 0.1}, fine) == 3
  assert first_failure(bad | {"not_finite/network/1": 0.1}, np.array([0, 1, 0], bool)) == 1
  assert without_flags(bad).keys() == {"loss"}


# Resuming.


@pytest.mark.parametrize(
  "name, devices, micro_batch",
  [("stacx", 2, 1), pytest.param("next", 2, None, marks=pytest.mark.slow)],
)
def test_n_plus_m_updates_are_n_then_m(name, devices, micro_batch, tmp_path):
  expected, expected_metrics = train(*start(name, devices, micro_batch), BATCHES)
  learner, state = start(name, devices, micro_batch)
  state, _ = train(learner, state, BATCHES[:2])
  checkpoints = Checkpointer(tmp_path)
  checkpoints.save(2, state, {})
  checkpoints.close()
  restored = Checkpointer(tmp_path).restore(start(name, devices, micro_batch)[1])
  assert restored is not None and restored.step == 2
  resumed, metrics = train(learner, restored.state, BATCHES[2:])
  assert_equal(resumed, expected)
  assert metrics == expected_metrics
