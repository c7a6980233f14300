"""The contract of every registered plugin, new ones included; nothing here lists their names."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from dm_env import specs

from selftune.core.agent.distributions import Categorical, for_action_spec
from selftune.core.agent.functions import Functions
from selftune.core.agent.update import describe
from selftune.core.api import registry, tunables
from selftune.core.api.errors import UserError
from selftune.core.api.online import ScalarTuner, TunerInputs
from selftune.core.api.types import EnvSpec, Histogram, LearnerState, TimeStep
from selftune.core.checking import inputs, populations, rows, table, terms
from selftune.core.config import discovery
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.optimizers.rmsprop import RMSProp

T, B, HEADS = 3, 4, 2
CONTINUOUS = specs.BoundedArray((2,), np.float32, [-1, -2], [1, 3])
DISTRIBUTIONS = (Categorical(small.ACTIONS), for_action_spec(CONTINUOUS))

discovery.load_all()
PLUGINS = {
  kind: {name: cls for name, cls in of_kind.items() if cls.__module__.startswith("selftune")}
  for kind, of_kind in registry.plugins().items()  # other tests register some of their own
}


def every(*kinds):
  named = [(kind, name) for kind in kinds for name in PLUGINS[kind]]
  return pytest.mark.parametrize("kind, name", named, ids=[name for _, name in named])


def test_every_plugin_could_be_imported():
  assert registry.unavailable() == {}
  for kind in registry.KINDS:
    assert PLUGINS[kind], f"no plugin of kind {kind}"


@every(*registry.KINDS)
def test_plugin_is_a_documented_frozen_dataclass(kind, name):
  cls = PLUGINS[kind][name]
  assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
  first_line = inspect.getdoc(cls).splitlines()[0]
  assert first_line.endswith(".") and len(first_line) <= 98
  for tunable in tunables.declared(name, cls):
    assert tunable.domain in (tunables.UNIT, tunables.SCALE, tunables.POSITIVE)
    value = tunable.domain.transform(np.float32(4.6), np.float32(tunable.value))
    assert np.isfinite(value) and value > 0


# Correctors and losses: what `selftune check` asks of them, for every kind of actions they serve.


def serves(name, distribution):
  """Whether a loss term can be computed of such actions; if not it says what to write instead."""
  try:
    PLUGINS["loss"][name]()(inputs.loss_inputs(distribution))
  except UserError as error:
    assert f"for @{name}()" in str(error)
    return False
  return True


@every("corrector", "loss")
def test_terms(kind, name):
  specs = [small.SPEC, small.SPEC._replace(action=CONTINUOUS)]
  served = [
    spec
    for spec, distribution in zip(specs, DISTRIBUTIONS, strict=True)
    if kind == "corrector" or serves(name, distribution)
  ]
  assert served
  for spec in served:
    plugin = PLUGINS[kind][name]()
    checks = terms.transitions(name, plugin, lambda spec=spec: (spec,), kind == "corrector")
    found = table.make(list(checks))
    assert [row for row in found if row.verdict != rows.OK] == []
    names = [row.check for row in found]
    assert names[:4] == ["shapes", "finite numbers", "one compilation", "derivative by inputs"]
    assert (names[4:] == ["derivative by tunables"]) == bool(tunables.declared(name, plugin))


# Every tunable: a metagradient that is not zero, and equals central differences. One agent a
# corrector, an optimiser and a kind of actions; every loss that serves these is part of each.


@functools.cache
def metagradients(corrector, optimizer, distribution):
  """By tunable: the metagradient, and <grad L_outer(theta'), d theta' / d eta> by differences."""
  metaopt = Metagradient(tune=("*",))
  cls = PLUGINS["optimizer"][optimizer]
  fields = {f.name for f in dataclasses.fields(cls)}
  # With a small learning rate the differences would drown in rounding.
  fast = cls(learning_rate=1.0) if "learning_rate" in fields else cls()
  agent = small.agent(
    metaopt,
    network=small.TableNetwork(),
    corrector=PLUGINS["corrector"][corrector](),
    losses=tuple(cls() for name, cls in PLUGINS["loss"].items() if serves(name, distribution)),
    optimizer=fast,
    heads=HEADS,
  )
  discrete = isinstance(distribution, Categorical)
  spec = small.SPEC if discrete else small.SPEC._replace(action=CONTINUOUS)
  fns = Functions(agent, spec, 100)
  size = distribution.size
  data = small.trajectory(3, T, B, np.float64)
  behaviour = np.random.default_rng(1).normal(size=(T, B, size))
  action = np.asarray(distribution.sample(jax.random.key(0), behaviour))
  data = data._replace(behaviour=behaviour, action=action)
  params = small.table(HEADS, T, B, size=size)
  state = LearnerState(
    params, agent.objective.optimizer.init(params), (), np.int32(1), (), np.int32(-1)
  )
  state = state._replace(meta_state=metaopt.init(fns, state, data))
  rng = np.random.default_rng(0)
  etas = jax.tree.map(lambda eta: 0.5 + 0.5 * rng.normal(size=eta.shape), state.meta_state.etas)

  @jax.jit
  def step(etas):
    new, metrics = metaopt.step(
      fns, state._replace(meta_state=state.meta_state._replace(etas=etas)), data
    )
    return new.params, {key: x for key, x in metrics.items() if key.startswith("metagrad/")}

  reference = params["policy"][:1, :-1]
  outer = lambda params: fns.outer_loss(params, jnp.zeros(HEADS), reference, data)
  new_params, metagradient = step(etas)
  direction = jax.jit(jax.grad(outer, has_aux=True))(new_params)[0]
  found = {}
  for name, eta in etas.items():
    for p in range(len(eta)):
      move = 1e-5 * np.eye(len(eta))[p]
      up, down = (step(etas | {name: eta + s * move})[0] for s in (1, -1))
      change = jax.tree.map(lambda d, u, v: np.vdot(d, u - v) / 2e-5, direction, up, down)
      found[name, p] = (metagradient[f"metagrad/{name}/{p}"], sum(jax.tree.leaves(change)))
  return found


@every("corrector", "loss", "optimizer")
def test_every_tunable_has_its_metagradient(kind, name):
  corrector = name if kind == "corrector" else registry.name_of(LeakyVTrace)
  optimizer = name if kind == "optimizer" else registry.name_of(RMSProp)
  distribution = DISTRIBUTIONS[0]
  if kind == "loss":
    distribution = next(d for d in DISTRIBUTIONS if serves(name, d))
  with jax.enable_x64(True):
    found = metagradients(corrector, optimizer, distribution)
  for tunable in tunables.declared(name, PLUGINS[kind][name]):
    for p in range(1 if kind == "optimizer" else HEADS):
      actual, expected = found[tunable.name, p]
      # All but the acting head's own move nothing that L_outer sees: here heads share nothing.
      if kind == "optimizer" or p == 0:
        assert abs(expected) > 1e-7, tunable.name
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-12, err_msg=tunable.name)


# Optimisers and meta-optimisers keep the structure of their state, and so compile once.


def described(tree):
  """Structure, and what a compiled function depends on."""
  leaves = jax.tree.leaves(tree)
  return jax.tree.structure(tree), [
    (x.shape, x.dtype, getattr(x, "weak_type", False)) for x in leaves
  ]


@every("optimizer")
def test_optimizer(kind, name):
  optimizer = PLUGINS[kind][name]()
  params = {"w": jnp.array([1.0, -2.0, 3.0]), "b": jnp.ones(())}
  opt_state = optimizer.init(params)
  declared = {t.name: jnp.float32(t.value) for t in tunables.declared(name, optimizer)}

  @jax.jit
  def update(grads, values):
    bound = tunables.bind({name: optimizer}, values)[name]
    return bound.update(grads, opt_state, params, jnp.float32(0.5))

  grads = {"w": jnp.array([0.1, 0.0, -0.2]), "b": jnp.array(0.0)}
  new_params, new_opt_state = update(grads, declared)
  assert described(new_params) == described(params)
  assert described(new_opt_state) == described(opt_state)
  assert new_params["w"][0] < 1.0 and new_params["w"][2] > 3.0  # down the gradient
  np.testing.assert_array_equal(new_params["b"], params["b"])
  zeros = jax.tree.map(jnp.zeros_like, grads)
  for g in (grads, zeros):
    derivative = jax.jacobian(lambda *args: update(*args)[0], (0, 1))(g, declared)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(derivative))


@every("metaopt")
def test_metaopt(kind, name):
  cls = PLUGINS[kind][name]
  tunes = "tune" in {f.name for f in dataclasses.fields(cls)}
  for options in [{}] + [{"tune": ("*",)}] * tunes:
    metaopt = cls(**options)
    for t, b, heads in ((T, B, HEADS), (1, 1, HEADS), (1, 1, 1)):
      fns = Functions(small.agent(metaopt, heads=heads), small.SPEC, 100)
      data = small.trajectory(0, t, b)
      learner = small.learner(fns.agent, b=b, t=t)
      try:
        state = jax.eval_shape(lambda learner=learner, data=data: small.first_state(learner, data))
      except UserError as error:  # it learns from one stream only, or one head
        assert ": write " in str(error) and (t, b, heads) != (1, 1, 1)
        continue
      new, metrics = jax.eval_shape(learner.update, state, data)
      assert described(new) == described(state)
      assert all(x.shape == () for x in metrics.values())
      for x in jax.eval_shape(functools.partial(describe, metaopt), state).values():
        if isinstance(x, Histogram):
          (bins,) = x.counts.shape
          assert x.edges.shape == (bins + 1,)
        else:
          assert x.shape == ()
    values = jax.eval_shape(fns.values, state.meta_state)
    assert {n: x.shape for n, x in values.items()}.items() <= fns.tunable_shapes.items()
    assert not tunes or len(values) in (0, len(fns.tunable_shapes))


@pytest.mark.parametrize("offered", ["check", "values", "describe", None])
def test_a_metaopt_of_init_and_step_is_whole(offered):
  """With one method more, that one is called, and no other is missed."""
  called = []

  def init(self, fns, state, batch):
    return ()

  def step(self, fns, state, batch):
    return state, {}

  def optional(self, *args):
    called.append(offered)
    return {}

  methods = {"init": init, "step": step} | ({offered: optional} if offered else {})
  metaopt = dataclasses.make_dataclass("Least", (), namespace=methods, frozen=True)()
  fns = Functions(small.agent(metaopt), small.SPEC, 100)
  learner, data = small.learner(fns.agent, b=B, t=T), small.trajectory(0, T, B)
  state = jax.eval_shape(lambda: small.first_state(learner, data))
  assert learner.update(small.first_state(learner, data), data)[1]["updates"] == 1
  assert fns.values(state.meta_state) == {} == describe(metaopt, state)
  assert set(called) == ({offered} if offered else set())


# Tuners: step sizes of one parameter vector, whatever its dtype.


@every("tuner")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tuner(kind, name, dtype):
  tuner, n = PLUGINS[kind][name](), 5
  with jax.enable_x64(dtype == np.float64):
    vector, number = jax.ShapeDtypeStruct((n,), dtype), jax.ShapeDtypeStruct((), dtype)
    inputs = TunerInputs(number, number, *[vector] * (len(TunerInputs._fields) - 2))
    state = jax.eval_shape(lambda p: tuner.init(0.1, p), vector)
    new, alpha = jax.eval_shape(tuner.update, state, inputs)
    beta = jax.eval_shape(tuner.beta, state)
    metrics = jax.eval_shape(tuner.metrics, state)
    rule = isinstance(tuner, ScalarTuner) and jax.eval_shape(
      lambda p: tuner.init_rule(0.1, p), vector
    )
  assert described(new) == described(state)
  assert (alpha.shape, alpha.dtype) == (beta.shape, beta.dtype) and alpha.dtype == dtype
  assert alpha.shape in ((), (n,))
  assert all(x.shape == () for x in metrics.values())
  if isinstance(tuner, ScalarTuner):
    assert described(state.rule) == described(rule)
    assert state.h == () or described(state.h) == described(vector)


@every("exploit")
def test_exploit(kind, name):
  assert_sound(populations.exploit(name, PLUGINS[kind][name]()))


@every("explore")
def test_explore(kind, name):
  assert_sound(populations.explore(name, PLUGINS[kind][name]()))


def assert_sound(checks):
  assert [row for row in table.make(list(checks)) if row.verdict != rows.OK] == []


# Networks: a policy and a value for each of the first heads asked for.

OBSERVATIONS = (
  specs.Array((2,), np.float32),
  specs.Array((7,), np.float32),
  specs.Array((36, 36, 4), np.uint8),
  specs.Array((10, 10, 4), bool),
)


@every("network")
def test_network(kind, name):
  served = []
  for observation in OBSERVATIONS:
    try:
      network = PLUGINS[kind][name]().build(EnvSpec(observation, small.SPEC.action), 5, heads=3)
    except ValueError as error:
      assert str(observation.shape) in str(error)
      continue
    served.append(observation)
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    scalars = jnp.zeros((T, B))
    timestep = TimeStep(
      jnp.zeros((T, B, *observation.shape), observation.dtype), scalars, scalars, scalars > 0
    )
    core_state = jax.eval_shape(lambda network=network: network.initial_state(B))
    assert all(x.shape[0] == B for x in jax.tree.leaves(core_state))
    for heads in (1, 3):
      out, state = jax.eval_shape(network.unroll, params, timestep, core_state, jnp.zeros(heads))
      assert (out.policy.shape, out.value.shape) == ((heads, T, B, 5), (heads, T, B))
      assert out.policy.dtype == out.value.dtype == np.float32
      assert described(state) == described(core_state)
  assert served
