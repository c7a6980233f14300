"""The family of metagradients against differences in float64 of a whole cycle, written plainly.

`core.checking.cycle`, which `selftune check` uses too, composes the cycle of the agent's losses and
optimiser (test_metagradient has these written down once more): K updates on their batches, then
what judges them, as one function of eta. Nothing of the meta-optimiser's own is called; its
metagradient is what it logs. Which batches a cycle is made of is written down here.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from selftune.core.agent.functions import Functions
from selftune.core.api import tunables
from selftune.core.api.contracts import Cycle, Target
from selftune.core.api.errors import UserError
from selftune.core.api.types import BATCH_AXES, LearnerState, Trajectory
from selftune.core.checking import cycle
from selftune.core.experiment import Outer
from selftune.plugins.losses.entropy import Entropy
from selftune.plugins.losses.lambda_return import LambdaReturn
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.losses.policy_kl import PolicyKL
from selftune.plugins.losses.value import Value
from selftune.plugins.metaopt._context import Context
from selftune.plugins.metaopt._judge import Bootstrap
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.optimizers.rmsprop import RMSProp

T, B = 3, 4
TUNE = ("leaky_vtrace.gamma", "leaky_vtrace.alpha", "value.cost", "rmsprop.learning_rate")
PLAIN = Outer(losses=(PolicyKL(0.7),))
CRITIC = dict(corrector=LeakyVTrace(gamma=0.8, lambda_=0.9), critic_cost=0.4)


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def agent(metaopt, outer=PLAIN, heads=1, behaviour="first", lstm=None):
  return small.agent(
    metaopt,
    network=small.SmallNetwork(embedded=False) if lstm is None else Mlp(hidden=(6,), lstm=lstm),
    corrector=LeakyVTrace(gamma=0.9, lambda_=0.95),
    optimizer=RMSProp(learning_rate=0.1, eps=1e-2),
    outer=outer,
    heads=heads,
    behaviour=behaviour,
  )


def batches(count, fns):
  found = [small.trajectory(seed, T, B, np.float64) for seed in range(1, count + 1)]
  return [x._replace(core_state=fns.network.initial_state(B)) for x in found]


def first_state(fns, metaopt, batch):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(fns.network.init, jax.random.key(0))
  params = jax.tree.map(lambda x: 0.4 * rng.normal(size=x.shape), shapes)
  key = jax.random.key(3)
  state = LearnerState(params, fns.init_optimizer(params), (), np.int32(0), key, np.int32(-1))
  meta = jax.tree.map(np.asarray, metaopt.init(fns, state, batch))
  etas = {name: 0.7 + 0.3 * rng.normal(size=eta.shape) for name, eta in meta.etas.items()}
  return state._replace(meta_state=meta._replace(etas=etas))


def tuned(fns):
  return tunables.select(tunables.collect(fns.components), TUNE)


def target(metaopt):
  it = metaopt.bootstrap
  return it and Target(it.steps, it.learning_rate, it.policy, it.value)


def some(batch, which):
  cut = lambda axis: lambda x: np.moveaxis(np.moveaxis(x, axis, 0)[which], 0, axis)
  return Trajectory(*(jax.tree.map(cut(n), x) for n, x in zip(BATCH_AXES, batch, strict=True)))


CASES = {
  "k2": dict(inner_updates=2),
  "k3_next": dict(inner_updates=3, outer_batch="next"),
  "k2_fresh": dict(inner_updates=2, outer_batch="fresh"),
  "fresh": dict(outer_batch="fresh"),
  "held_out": dict(outer_batch="held_out", held_out=2),
  "bmg": dict(outer_batch="next", bootstrap=Bootstrap(value=0.3)),
  "bmg_k2_l3": dict(inner_updates=2, outer_batch="fresh", bootstrap=Bootstrap(steps=3)),
  "bmg_descent": dict(bootstrap=Bootstrap(steps=2, learning_rate=0.02, policy=0.5, value=0.1)),
}
SLOW = {"k2_fresh", "k3_next", "fresh", "held_out", "bmg_k2_l3", "bmg_descent"}
OUTERS = {
  "shared": Outer(critic="shared", **CRITIC),
  "stopped": Outer(critic="stopped", keep=("policy_gradient",), normalise=True, **CRITIC),
  "own": Outer(critic="own", keep=("policy_gradient", "entropy"), **CRITIC),
}
WHOLE = [
  *(
    pytest.param(dict(options=o), id=n, marks=pytest.mark.slow if n in SLOW else ())
    for n, o in CASES.items()
  ),
  *(
    pytest.param(
      dict(options=CASES["fresh"], outer=o),
      id=n,
      marks=pytest.mark.slow if n == "shared" else (),
    )
    for n, o in OUTERS.items()
  ),
  pytest.param(
    dict(options=CASES["k2"], outer=OUTERS["own"], heads=2, behaviour="random", lstm=3),
    id="k2_own_random_lstm",
    marks=pytest.mark.slow,
  ),
  pytest.param(
    dict(options=CASES["k2_fresh"], outer=OUTERS["shared"], heads=2, behaviour="average"),
    id="k2_shared_average",
    marks=pytest.mark.slow,
  ),
]


@pytest.mark.parametrize("case", WHOLE)
def test_the_metagradient_is_that_of_the_whole_cycle(case):
  metaopt = Metagradient(tune=TUNE, **case["options"])
  rest = {name: x for name, x in case.items() if name != "options"}
  fns = Functions(agent(metaopt, **rest), small.SPEC, 50)
  k, mode = metaopt.inner_updates, metaopt.outer_batch
  data = batches(k + 1, fns)
  state = first_state(fns, metaopt, data[0])
  etas = state.meta_state.etas
  steps = [jax.jit(functools.partial(metaopt.step, fns, phase=p)) for p in range(metaopt.phases)]
  made = k if mode in ("same", "held_out") else k + 1
  now, states = state, [state]
  for n in range(made):
    now, metrics = steps[n % metaopt.phases](now, data[n])
    now = now._replace(step=now.step + 1)
    states.append(now)
  inner_batches, outer_batch = data[:k], data[k]
  if mode == "same":
    outer_batch = data[k - 1]
  if mode == "held_out":
    inner_batches, outer_batch = [some(data[0], [0, 2])], some(data[0], [1, 3])
  written = Cycle(etas, tuple(inner_batches), outer_batch, made - 1, target(metaopt))
  expected = cycle.gradient(fns, tuned(fns), state, written)
  if mode == "fresh":  # theta_K is what learning went on from
    reached = cycle.made(fns, tuned(fns), state, inner_batches, [etas] * k)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(close, now.params, reached.params)
  for name, found in expected.by_eta.items():
    assert np.any(np.abs(found) > 1e-7), name
    for p, x in enumerate(found):
      actual = metrics[f"metagrad/{name}/{p}"]
      np.testing.assert_allclose(actual, x, rtol=2e-4, atol=1e-9, err_msg=f"{name}/{p}")
  np.testing.assert_allclose(metrics["metagrad_norm"], expected.norm, rtol=2e-4)
  # What the meta-optimiser says of its cycle is what is written here.
  told = metaopt.cycle(fns, states, data)
  jax.tree.map(np.testing.assert_array_equal, told._replace(used=None), written._replace(used=None))


@pytest.mark.slow
def test_a_context_learns_through_every_update():
  context = Context(("reward", "td_error", "value"), batches=2, hidden=3)
  metaopt = Metagradient(tune=TUNE, inner_updates=2, context=context, optimizer=Descent())
  fns = Functions(agent(metaopt), small.SPEC, 50)
  data = batches(2, fns)
  state = first_state(fns, metaopt, data[0])
  rng = np.random.default_rng(4)
  weights = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape), state.meta_state.context.weights)
  meta = state.meta_state._replace(context=state.meta_state.context._replace(weights=weights))
  state = state._replace(meta_state=meta)
  now = state
  recents = []
  for phase in range(2):
    now, metrics = jax.jit(functools.partial(metaopt.step, fns, phase=phase))(now, data[phase])
    now = now._replace(step=now.step + 1)
    recents.append(np.asarray(now.meta_state.context.recent))

  def etas_of(x, k):
    free, weights = x
    hidden = jnp.tanh(recents[k] @ weights["w1"] + weights["b1"])
    offsets = hidden @ weights["w2"]
    return {name: eta + offsets[n : n + 1] for n, (name, eta) in enumerate(free.items())}

  # The statistics themselves: the newest first, means over valid transitions, symmetric logarithms.
  mask = ~data[0].timestep.first[1:]
  reward = data[0].timestep.reward[1:][mask].mean()
  np.testing.assert_allclose(recents[0][0], np.sign(reward) * np.log1p(abs(reward)), rtol=1e-9)
  np.testing.assert_array_equal(recents[0][3:], 0)
  np.testing.assert_array_equal(recents[1][3:], recents[0][:3])

  x = (meta.etas, weights)
  written = Cycle(
    meta.etas, tuple(data), data[1], 1, more=weights, used=lambda *x: etas_of(x[:2], x[2])
  )
  objective = cycle.objective(fns, tuned(fns), state, written).of
  expected = cycle.differences(lambda x: objective([etas_of(x, k) for k in range(2)]), x)
  norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(expected)))
  np.testing.assert_allclose(metrics["metagrad_norm"], norm, rtol=1e-4)
  np.testing.assert_allclose(cycle.gradient(fns, tuned(fns), state, written).norm, norm, rtol=1e-6)
  # Plain descent at rate 1: what moved is the gradient.
  learned = (now.meta_state.etas, now.meta_state.context.weights)
  close = lambda a, b, c: np.testing.assert_allclose(a - b, c, rtol=1e-3, atol=1e-8)
  jax.tree.map(close, x, learned, expected)
  assert metrics["metagrad_norm"] > 0


@dataclasses.dataclass(frozen=True)
class Descent:
  """Gradient descent at rate 1."""

  def init(self, params):
    return ()

  def update(self, grads, opt_state, params, progress):
    return jax.tree.map(lambda x, g: x - g, params, grads), opt_state


def moved(**options):
  """Eta before and after one update under Descent, and the metagradient."""
  metaopt = Metagradient(tune=("leaky_vtrace.gamma", "value.cost"), optimizer=Descent(), **options)
  fns = Functions(agent(metaopt), small.SPEC, 50)
  (data,) = batches(1, fns)
  state = first_state(fns, metaopt, data)
  new, metrics = jax.jit(functools.partial(metaopt.step, fns))(state, data)
  gradient = {name: metrics[f"metagrad/{name}/0"] for name in state.meta_state.etas}
  return state.meta_state.etas, new.meta_state.etas, gradient


def test_guards():
  before, after, gradient = moved()
  norm = np.sqrt(sum(g**2 for g in gradient.values()))
  for name, g in gradient.items():
    np.testing.assert_allclose(before[name] - after[name], g, rtol=1e-9)
  _, clipped, _ = moved(max_norm=float(norm) / 3)
  _, whole, _ = moved(max_norm=float(norm) * 3)
  _, held, _ = moved(anchor=0.25, eta_init=2.0)
  _, frozen, _ = moved(start_after=1)
  middle = float(jax.nn.sigmoid(before["leaky_vtrace.gamma"][0]))
  bounds = {"leaky_vtrace.gamma": (middle - 1e-6, 1), "value.cost": (0, 99)}
  _, bounded, _ = moved(bounds=bounds)
  for name, g in gradient.items():
    np.testing.assert_allclose(before[name] - clipped[name], g / 3, rtol=1e-9)
    np.testing.assert_allclose(before[name] - whole[name], g, rtol=1e-9)
    pull = 0.25 * (before[name] - 2.0)
    np.testing.assert_allclose(before[name] - held[name], g + pull, rtol=1e-9)
    np.testing.assert_array_equal(frozen[name], before[name])
  gamma = jax.nn.sigmoid(bounded["leaky_vtrace.gamma"][0])
  assert gamma >= middle - 1.1e-6
  np.testing.assert_allclose(bounded["value.cost"], after["value.cost"], rtol=1e-12)


def test_an_anchor_may_be_a_number_of_each_run():
  etas = jax.vmap(lambda anchor: moved(anchor=anchor)[1])(jnp.array([0.0, 0.25]))
  for name, (free, held) in etas.items():
    (first,) = moved()[0][name]
    np.testing.assert_allclose(free - held, 0.25 * (first - 4.6) * np.ones(1), atol=1e-9)
    _, pulled, _ = moved(anchor=0.25)
    np.testing.assert_allclose(held, pulled[name], rtol=1e-9)


@pytest.mark.parametrize(
  ("bounds", "message"),
  [
    ({"value.cost": (0.3, 0.2)}, "the first is to be less"),
    ({"value.cost": (0.6, 0.7)}, "value.cost is tuned from 0 to 0.5, of which nothing"),
    ({"entropy.cost": (0.1, 0.2)}, "entropy.cost is tuned from 0 to 0, of which nothing"),
    ({"leaky_vtrace.gamma": (-2.0, -1.0)}, "gamma is tuned from 0 to 1, of which nothing"),
    ({"rmsprop.eps": (0.1, 0.2)}, "matches no tunable"),
  ],
)
def test_bounds_between_which_there_is_nothing(bounds, message):
  components = {
    "leaky_vtrace": LeakyVTrace(),
    "value": Value(cost=0.5),
    "entropy": Entropy(cost=0.0),
  }
  tune = ("leaky_vtrace.gamma", "value.cost", "entropy.cost")
  with pytest.raises(ValueError, match=message):
    Metagradient(tune=tune, bounds=bounds).check(components)


def test_a_context_keeps_no_bounds():
  bounds = {"value.cost": (0.1, 0.2)}
  with pytest.raises(ValueError, match="bounds are not kept by what a context adds"):
    Metagradient(tune=("value.cost",), bounds=bounds, context=Context())


def test_a_context_has_something_to_follow():
  with pytest.raises(ValueError, match=r"statistics = \(\) leaves nothing to follow"):
    Context(statistics=())


def test_what_held_out_does_not_divide():
  fns = Functions(agent(Metagradient(tune=TUNE, outer_batch="held_out", held_out=3)), small.SPEC)
  (data,) = batches(1, fns)
  with pytest.raises(ValueError, match="one in 3 of the 4 trajectories"):
    first_state(fns, fns.agent.metaopt, data)


def test_a_critic_learns_values_of_the_outer_corrector():
  outer = Outer(critic="shared", corrector=LambdaReturn(gamma=0.5, lambda_=0.0), critic_cost=0.3)
  metaopt = Metagradient(tune=TUNE)
  network = small.TableNetwork()
  fns = Functions(dataclasses.replace(agent(metaopt, outer), network=network), small.SPEC)
  plain = Functions(dataclasses.replace(agent(metaopt), network=network), small.SPEC)
  data = small.trajectory(2, T, B, np.float64)
  params = small.table(2, T, B)
  without = jax.tree.map(lambda x: x[:1], params)
  both = fns.inner_loss(params, {}, data)[0] - plain.inner_loss(without, {}, data)[0]
  value, step = params["value"][1], data.timestep
  expected = 0.0
  for t in range(T):
    for b in range(B):
      if not step.first[t + 1, b]:
        target = step.reward[t + 1, b] + 0.5 * step.discount[t + 1, b] * value[t + 1, b]
        expected += 0.3 * (target - value[t, b]) ** 2
  np.testing.assert_allclose(both, expected, rtol=1e-9)


def test_a_stopped_critic_trains_its_head_alone():
  def torso_gradient(critic):
    fns = Functions(agent(Metagradient(), Outer(critic=critic, **CRITIC)), small.SPEC)
    (data,) = batches(1, fns)
    params = fns.network.init(jax.random.key(0))
    grads = jax.grad(lambda x: fns.inner_loss(x, {}, data)[0])(params)
    return grads["torso"], grads["value"][-1]

  torso, head = torso_gradient("stopped")
  shared_torso, shared_head = torso_gradient("shared")
  none, _ = torso_gradient("none")
  np.testing.assert_allclose(head, shared_head, rtol=1e-9)
  assert np.abs(head).max() > 0
  np.testing.assert_allclose(torso, none, rtol=1e-9)
  assert np.abs(shared_torso - none).max() > 1e-3


def test_a_network_that_cannot_stop_its_heads_says_so():
  subject = small.agent(network=small.TableNetwork(), outer=Outer(critic="stopped"))
  with pytest.raises(UserError, match="write 'shared' or 'own'"):
    Functions(subject, small.SPEC)


def test_replayed_batches_are_past_ones():
  metaopt = Metagradient(tune=TUNE, outer_batch="replayed", replay=2, learning_rate=0.0)
  fns = Functions(agent(metaopt), small.SPEC, 50)
  data = batches(5, fns)
  state = first_state(fns, metaopt, data[0])
  etas = state.meta_state.etas
  values = metaopt.values(fns, state.meta_state)
  step = jax.jit(functools.partial(metaopt.step, fns))
  drawn = []
  for n, batch in enumerate(data):
    new, _ = step(state, batch)
    # Which batch was learned from: the one whose update, made plainly, leads there.
    for m, candidate in enumerate(data):
      made, _ = cycle.inner(fns, values, state.params, state.opt_state, n, candidate)
      if np.allclose(made["torso"], new.params["torso"], 1e-6, 1e-6):
        drawn.append(m)
    state = new._replace(step=state.step + 1)
  assert drawn[:2] == [0, 0] and len(drawn) == len(data)
  assert all(n - 2 <= m < n for n, m in list(enumerate(drawn))[1:])
  jax.tree.map(np.testing.assert_array_equal, state.meta_state.etas, etas)
