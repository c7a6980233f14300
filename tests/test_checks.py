"""Plugins that misbehave: each is named, with what it gave and what is wanted, before any file."""

import dataclasses
from typing import ClassVar

import fakes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from dm_env import specs

from selftune.core.api import checks
from selftune.core.api.contracts import Network
from selftune.core.api.errors import UserError
from selftune.core.api.types import EnvSpec, HeadOut, Histogram, LearnerState, Targets, TimeStep
from selftune.core.commands import cli
from selftune.core.config import discovery
from selftune.core.engine import environments
from selftune.plugins.envs.mountain_car import MountainCar
from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.tuners.constant_step import ConstantStep

T, B, P, A, N = 5, 4, 2, 3, 6
TERM = np.ones((T, B), np.float32)
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(())}
CAR = MountainCar()


def zeros(*shape, dtype=jnp.float32):
  return jnp.zeros(shape, dtype)


# One of each kind; `how` says what is wrong with it.


@dataclasses.dataclass(frozen=True)
class BadLoss:
  """Its loss is a sum, or as `how` says."""

  how: str = "scalar"

  def __call__(self, x):
    loss = x.value**2
    return {
      "scalar": (jnp.sum(loss), {}),
      "batch": (jnp.sum(loss, 0), {}),
      "none": None,
      "bare": loss,
      "integer": (loss.astype(int), {}),
      "metric": (loss, {"entropy": loss}),
      "fine": (loss, {"squared": loss}),
    }[self.how]


@dataclasses.dataclass(frozen=True)
class BadCorrector:
  """Its targets have a row too many, or as `how` says."""

  gamma: float = 0.9
  how: str = "row"

  def __call__(self, x):
    if self.how == "nan":
      return Targets(x.reward / 0, x.reward), {}
    return Targets(x.value, x.value[:-1]), {}


@dataclasses.dataclass(frozen=True)
class BadNetwork:
  """Its values have an axis too many, or as `how` says."""

  how: str = "value"

  def build(self, spec, policy_size, heads):
    if self.how == "none":
      return None

    def unroll(params, timestep, core_state, gamma):
      shape = (len(gamma), *timestep.first.shape)
      value = jnp.ones((*shape, 1)) if self.how == "value" else jnp.ones(shape)
      value /= self.how != "nan"
      core_state = core_state[0] if self.how == "core" else core_state
      return HeadOut(jnp.zeros((*shape, policy_size)) + params["w"], value), core_state

    dtype = jnp.bfloat16 if self.how == "params" else jnp.float32
    return Network(lambda key: {"w": jnp.zeros((), dtype)}, lambda b: (jnp.zeros(b),), unroll)


@dataclasses.dataclass(frozen=True)
class BadOptimizer:
  """Its parameters are half as precise as those before, or as `how` says."""

  how: str = "dtype"

  def init(self, params):
    return {"fast": "very"} if self.how == "state" else ()

  def update(self, grads, opt_state, params, progress):
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), opt_state


@dataclasses.dataclass(frozen=True)
class BadMetaopt(Fixed):
  """Forgets to return the metrics, or as `how` says."""

  how: str = "bare"

  def step(self, fns, state, batch):
    new, metrics = Fixed.step(self, fns, state, batch)
    return {
      "bare": new,
      "state": (new._replace(params=()), metrics),
      "metric": (new, {"loss": jnp.ones(3)}),
    }.get(self.how, (new, metrics))

  def values(self, fns, meta_state):
    return {"entropy.cots": jnp.ones(1)} if self.how == "values" else {}

  def describe(self, state):
    return {"grad_norm": 1.0} if self.how == "describe" else {}


@dataclasses.dataclass(frozen=True)
class BadTuner:
  """Gives a step size for every second parameter."""

  def init(self, alpha, params):
    return ()

  def update(self, state, x):
    return state, x.trace[::2]

  def beta(self, state):
    return jnp.zeros(())

  def metrics(self, state):
    return {}


@dataclasses.dataclass(frozen=True)
class BadScalarTuner(ConstantStep):
  """Its fast form gives no number, but an array of one."""

  def adapt(self, rule, x):
    return rule, jnp.ones(1)


@dataclasses.dataclass(frozen=True)
class BadWriter:
  """Opens nothing."""

  required: ClassVar[bool] = True

  def open(self, run):
    return None


@dataclasses.dataclass(frozen=True)
class BadEnv:
  """A pool that is fine until field `field` is what `how` says, at receive `at` (0: at reset)."""

  how: str = "shape"
  field: str = "reward"
  at: int = 0

  def make(self, seeds):
    if self.how == "none":
      return None
    return BadPool(self, seeds)


class BadPool:
  def __init__(self, plugin, seeds):
    self.plugin, self.num_envs, self.received = plugin, len(seeds) + (plugin.how == "few"), 0
    self.spec = "a spec" if plugin.how == "spec" else fakes.SPEC

  def reset(self, stagger=False):
    b = self.num_envs
    ones = np.ones(b, np.float32)
    return self._spoilt(TimeStep(np.ones((b, 4), np.float32), 0 * ones, ones, ones > 0))

  def send(self, actions):
    pass

  def recv(self):
    self.received += 1
    timestep = BadPool.reset(self)
    return timestep and timestep._replace(first=~timestep.first)

  def close(self):
    pass

  def _spoilt(self, timestep):
    plugin = self.plugin
    if plugin.at != self.received:
      return timestep
    x = getattr(timestep, plugin.field)
    if plugin.how == "exit":
      raise SystemExit(0)
    given = {"shape": x[:1], "dtype": x.astype(complex), "nothing": None, "missing": None}
    if plugin.how == "missing":
      return None
    return timestep._replace(**{plugin.field: given[plugin.how]})


@dataclasses.dataclass(frozen=True)
class BadCar:
  """Mountain car whose reward has an axis too many, or as `how` says."""

  how: str = "reward"

  @property
  def spec(self):
    return CAR.spec

  def make(self, seeds):
    raise AssertionError("it runs on the device")

  def init(self, key):
    return CAR.init(key)

  def step(self, state, action):
    new, timestep = CAR.step(state, action)
    nan = jnp.nan * timestep.reward
    return {
      "reward": (new, timestep._replace(reward=timestep.reward[None])),
      "observation": (new, timestep._replace(observation=timestep.observation[:1])),
      "state": ((new, 1), timestep),
      "bare": timestep,
      "nan": (new, timestep._replace(reward=nan)),
    }[self.how]


BAD = {
  "bad_loss": ("loss", BadLoss),
  "bad_corrector": ("corrector", BadCorrector),
  "bad_network": ("network", BadNetwork),
  "bad_optimizer": ("optimizer", BadOptimizer),
  "bad_metaopt": ("metaopt", BadMetaopt),
  "bad_tuner": ("tuner", BadTuner),
  "bad_scalar_tuner": ("tuner", BadScalarTuner),
  "bad_writer": ("writer", BadWriter),
  "bad_env": ("env", BadEnv),
  "bad_car": ("env", BadCar),
}


@pytest.fixture
def bad(tmp_path, monkeypatch):
  monkeypatch.setattr(fakes, "PLUGINS", fakes.PLUGINS | BAD)
  return fakes.configuration(tmp_path, monkeypatch)


def train(config, workdir, bindings, capsys):
  code = cli.main(["train", config, "--workdir", str(workdir), *(f"--bind={b}" for b in bindings)])
  return code, capsys.readouterr().err.splitlines()


LOSSES = "objective.losses = (@policy_gradient(), @entropy(), @bad_loss())"
FROM_THE_COMMAND_LINE = {
  "loss": ([LOSSES], "loss @bad_loss() gave float32 [] as its loss; wanted: float32 [T, B] = "),
  "loss of [B]": (
    [LOSSES, "bad_loss.how = 'batch'"],
    "loss @bad_loss() gave float32 [4] as its loss; wanted: float32 [T, B] = [5, 4].",
  ),
  "collision": (
    [LOSSES, "bad_loss.how = 'metric'"],
    "loss @bad_loss() gave a metric 'entropy', which another one has; rename it.",
  ),
  "corrector": (
    ["objective.corrector = @bad_corrector()"],
    "corrector @bad_corrector() gave float32 [6, 4] as Targets.value; wanted: float32 [T, B] = ",
  ),
  "network": (
    ["agent.network = @bad_network()"],
    "network @bad_network() gave float32 [1, 1, 4, 1] as HeadOut.value; wanted: float32 [P, T, B]",
  ),
  "optimizer": (
    ["objective.optimizer = @bad_optimizer()"],
    "optimizer @bad_optimizer() gave bfloat16 [1, 5, 3] as new params['policy']; wanted: float32",
  ),
  "metaopt": (
    ["agent.metaopt = @bad_metaopt()"],
    "metaopt @bad_metaopt() returned a LearnerState of 6; wanted: (LearnerState, metrics).",
  ),
  "values": (
    ["agent.metaopt = @bad_metaopt()", "bad_metaopt.how = 'values'"],
    "metaopt @bad_metaopt() gave a value of 'entropy.cots'; wanted: tunables of this agent: ",
  ),
  "describe": (
    ["agent.metaopt = @bad_metaopt()", "bad_metaopt.how = 'describe'"],
    "metaopt @bad_metaopt() gave a metric 'grad_norm', which another one has; rename it.",
  ),
  "env": (
    ["train.env = @bad_env()"],
    "env @bad_env(): reset() gave float32 [1] as TimeStep.reward; wanted: float32 [2], the first",
  ),
  "pool": (
    ["train.env = @bad_env()", "bad_env.how = 'none'"],
    "env @bad_env() gave None as its pool; wanted: a selftune.Environment, with ",
  ),
}


@dataclasses.dataclass(frozen=True)
class Incomplete:
  """A meta-optimiser that is not finished yet."""

  def init(self, fns, state, batch):
    return ()


def test_what_a_plugin_lacks(bad, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(fakes, "PLUGINS", {"incomplete": ("metaopt", Incomplete)})
  fakes.register(monkeypatch)
  code, lines = train(bad, tmp_path / "run", ["agent.metaopt = @incomplete()"], capsys)
  assert (code, lines) == (
    2,
    [
      "selftune: test_checks.Incomplete, registered as metaopt @incomplete(), lacks step: see "
      "selftune.core.api.contracts.metaoptimizers.MetaOptimizer."
    ],
  )


@pytest.mark.parametrize("of", FROM_THE_COMMAND_LINE)
def test_from_the_command_line(of, bad, tmp_path, capsys):
  bindings, message = FROM_THE_COMMAND_LINE[of]
  if "objective.losses" not in str(bindings):
    bindings = [LOSSES, "bad_loss.how = 'fine'", *bindings]
  unread = {"vtrace": "objective.corrector", "rmsprop": "objective.optimizer"}
  text = open(bad).read()
  for name, field in unread.items():  # a strict configuration binds nothing that is not built
    if any(b.startswith(field) for b in bindings):
      text = "".join(line for line in text.splitlines(True) if not line.startswith(f"{name}."))
  open(bad, "w").write(text)
  code, lines = train(bad, tmp_path / "run", bindings, capsys)
  assert (code, len(lines)) == (2, 1), lines
  assert lines[0].startswith(f"selftune: {message}")
  assert not (tmp_path / "run").exists()


def test_from_the_command_line_once_training_has_begun(bad, tmp_path, capsys):
  bindings = ["train.env = @bad_env()", "bad_env.at = 3", "bad_env.field = 'observation'"]
  code, lines = train(bad, tmp_path / "run", bindings, capsys)
  assert code == 2 and lines[-1] == (
    "selftune: env @bad_env(): recv() gave float32 [1, 4] as TimeStep.observation; wanted: "
    "float32 [2, 4], the first axis that of its 2 environments."
  )
  bindings[-1] = "bad_env.how = 'exit'"
  code, lines = train(bad, tmp_path / "exit", bindings, capsys)
  assert (
    code == 1 and lines[-1] == "selftune: the run was ended by code that it calls: sys.exit(0)."
  )
  code, lines = train(bad, tmp_path / "log", ["train.writers = (@bad_writer(),)"], capsys)
  assert code == 2 and lines[-1].startswith(
    "selftune: writer @bad_writer() gave None as its open log; wanted: a selftune."
  )


@pytest.mark.parametrize(
  "bindings, cause",
  [
    (
      ["agent.network = @bad_network()", "bad_network.how = 'nan'"],
      "output of network @bad_network",
    ),
    (
      ["objective.corrector = @bad_corrector()", "bad_corrector.how = 'nan'"],
      "targets of corrector @b",
    ),
  ],
)
def test_what_is_not_finite_is_named(bindings, cause, bad, tmp_path, capsys):
  code, lines = train(bad, tmp_path / "run", bindings, capsys)
  assert code == 1 and lines[-1].startswith(f"selftune: '{cause}")
  assert "was not finite in update 1;" in lines[-1]
  assert not any("not_finite" in name for row in fakes.rows(tmp_path / "run") for name in row)


ON_THE_DEVICE = {
  "reward": "env @bad_car() gave float32 [1] as TimeStep.reward; wanted: numbers [].",
  "observation": "env @bad_car() gave float32 [1] as TimeStep.observation; wanted: numbers [2].",
  "state": "env @bad_car() gave ",
  "bare": "env @bad_car() returned a TimeStep of 4; wanted: (state, TimeStep).",
  "bad_tuner": "tuner @bad_tuner() gave float32 [128] as alpha; wanted: float32 [N] = [256].",
  "bad_scalar_tuner": "tuner @bad_scalar_tuner() gave float32 [1] as alpha; wanted: float32 [].",
}


@pytest.mark.parametrize("how", ON_THE_DEVICE)
def test_on_the_device(how, bad, tmp_path, capsys):
  text = fakes.MOUNTAIN_CAR_RUNS + "train.writers = (@jsonl(),)\n"
  if how.endswith("tuner"):
    text = text.replace("@metatrace()", f"@{how}()")
  else:
    text = text.replace("mountain_car.max_steps = 9", f"bad_car.how = '{how}'")
    text = text.replace("@mountain_car", "@bad_car")
  open(bad, "w").write(text)
  code, lines = train(bad, tmp_path / "run", [], capsys)
  assert (code, len(lines)) == (2, 1), lines
  assert lines[0].startswith(f"selftune: {ON_THE_DEVICE[how]}")
  assert not (tmp_path / "run").exists()


def test_what_the_environment_gave_is_named_on_the_device_too(bad, tmp_path, capsys):
  text = fakes.MOUNTAIN_CAR_RUNS + "train.writers = (@jsonl(),)\nruns.repeats = 7\n"
  text = text.replace("mountain_car.max_steps = 9", "bad_car.how = 'nan'")
  open(bad, "w").write(text.replace("@mountain_car", "@bad_car"))
  code, lines = train(bad, tmp_path / "run", [], capsys)
  assert code == 0
  assert (
    "selftune: 'reward of env @bad_car()' was not finite: it ended run 0, 1, 2, 3, 4" in lines[-1]
  )
  assert lines[-1].endswith("and 2 more.")


# Every check, by itself.


def state_of(params=PARAMS):
  return LearnerState(params, (), (), jnp.int32(0), jax.random.key(0), jnp.int32(-1))


def unrolled(how):
  """What a network of `BadNetwork` gives, checked."""
  network = checks.network("it", BadNetwork(how).build(small.SPEC, A, P), A)
  timestep = TimeStep(zeros(T, B, 4), zeros(T, B), zeros(T, B), zeros(T, B) > 0)
  params, core = network.init(jax.random.key(0)), network.initial_state(B)
  return network.unroll(params, timestep, core, zeros(P))


def changed(x, **changes):
  return {**x, **changes}


loss = lambda given, taken=(): checks.loss("it", given, TERM, taken)
targets = lambda given: checks.targets("it", given, TERM, ())
optimizer = lambda given: checks.optimizer("it", given, PARAMS, (jnp.zeros(2),))
tuner = lambda given: checks.tuner("it", given, {"h": zeros(N)}, zeros(N))
updated = lambda given: checks.updated("it", given, state_of())
values = lambda given: checks.values("it", given, {"a.b": (P,)})
describe = lambda given: checks.description("it", given)
STATE = (jnp.zeros(2),)

WRONG = [
  (loss, None, "it returned None; wanted: (loss [T, B], metrics)."),
  (loss, TERM, "it returned float32 [5, 4]; wanted: (loss [T, B], metrics)."),
  (loss, (0.0, {}), "it gave float32 [] as its loss; wanted: float32 [T, B] = [5, 4]."),
  (loss, (TERM[0], {}), "it gave float32 [4] as its loss; wanted: float32 [T, B] = [5, 4]."),
  (loss, (TERM > 0, {}), "it gave bool [5, 4] as its loss"),
  (loss, (TERM.astype(int), {}), "it gave int32 [5, 4] as its loss"),
  (loss, (TERM.astype(jnp.bfloat16), {}), "it gave bfloat16 [5, 4] as its loss"),
  (loss, (TERM, None), "it returned None; wanted: a dict of arrays by name."),
  (loss, (TERM, {3: TERM}), "it gave a metric the name 3; wanted: a string."),
  (loss, (TERM, {"a": TERM[0]}), "it gave float32 [4] as metric 'a'; wanted: numbers [T, B] = "),
  (loss, (TERM, {"a": "b"}), "it gave a str as metric 'a'; wanted: numbers [T, B] = [5, 4]."),
  (targets, (Targets(TERM, None), {}), "it gave None as Targets.advantage; wanted: float32 [T, B]"),
  (targets, Targets(TERM, TERM), "it gave float32 [5, 4] as its targets; wanted: a Targets."),
  (targets, ((TERM, TERM), {}), "it gave a tuple as its targets; wanted: a Targets."),
  (unrolled, "none", "it gave None as its network; wanted: a Network."),
  (unrolled, "params", "it gave bfloat16 [] as parameters['w']; wanted: float32 []."),
  (unrolled, "core", "it gave nothing as core state[0]; wanted: float32 [4], as before the step."),
  (unrolled, "value", "it gave float32 [2, 5, 4, 1] as HeadOut.value; wanted: float32 [P, T, B] ="),
  (optimizer, PARAMS, "it returned a dict; wanted: (new params, new opt_state)."),
  (optimizer, (None, STATE), "it gave nothing as new params['b']; wanted: float32 [], as before"),
  (
    optimizer,
    ({"w": PARAMS["w"]}, STATE),
    "it gave nothing as new params['b']; wanted: float32 []",
  ),
  (optimizer, (changed(PARAMS, c=1.0), STATE), "it gave float32 [] as new params['c']; wanted: n"),
  (optimizer, (changed(PARAMS, b=zeros(1)), STATE), "it gave float32 [1] as new params['b']; wan"),
  (
    optimizer,
    (PARAMS, list(STATE)),
    "it gave PyTreeDef([*]) as new opt_state; wanted: PyTreeDef((*",
  ),
  (tuner, ({"h": zeros(N)}, zeros(2)), "it gave float32 [2] as alpha; wanted: float32 [N] = [6]."),
  (tuner, ({"h": zeros(N)}, None), "it gave None as alpha; wanted: float32 [N] = [6]."),
  (tuner, ({"h": zeros(N)}, jnp.int32(1)), "it gave int32 [] as alpha; wanted: float32 []."),
  (tuner, ({"h": 0.0}, 0.1), "it gave float32 [] as its new state['h']; wanted: float32 [6], as"),
  (updated, (state_of()._asdict(), {}), "it gave a dict as its new state; wanted: a LearnerState."),
  (updated, (state_of({}), {}), "it gave nothing as its new state.params['b']; wanted: float32 []"),
  (updated, (state_of(), {"a": TERM}), "it gave float32 [5, 4] as metric 'a'; wanted: numbers []."),
  (updated, (state_of(), {"updates": 1}), "it gave a metric 'updates', which another one has"),
  (values, None, "it returned None; wanted: a dict of arrays by name."),
  (values, {"a": zeros()}, "it gave a value of 'a'; wanted: tunables of this agent: a.b."),
  (values, {"a.b": zeros()}, "it gave float32 [] as the value of 'a.b'; wanted: float32 [2]."),
  (describe, {"a": TERM}, "it gave float32 [5, 4] as metric 'a'; wanted: numbers []."),
  (describe, {"env_steps": 1}, "it gave a metric 'env_steps', which another one has; rename it."),
]


@pytest.mark.parametrize("check, given, message", WRONG)
def test_what_is_wrong(check, given, message):
  with pytest.raises(UserError) as caught:
    check(given)
  assert str(caught.value).startswith(message)
  assert "\n" not in str(caught.value)


RIGHT = [
  (loss, (TERM, {"a": TERM, "b": TERM > 0})),
  (loss, (jnp.ones((T, B)), {})),
  (targets, (Targets(TERM, TERM), {"a": TERM})),
  (optimizer, (PARAMS, STATE)),
  (tuner, ({"h": zeros(N)}, 0.1)),
  (tuner, ({"h": zeros(N)}, zeros(N))),
  (updated, (state_of(), {"a": 1.0, "param_norm": zeros()})),
  (values, {}),
  (values, {"a.b": zeros(P)}),
  (describe, {"a": 1, "b": Histogram(zeros(3), zeros(4))}),
]


@pytest.mark.parametrize("check, given", RIGHT)
def test_what_is_right_is_returned_as_it_is(check, given):
  returned = check(given)
  given = given if isinstance(given, tuple) else (given,)
  returned = returned if isinstance(returned, tuple) else (returned,)
  assert all(x is y for x, y in zip(returned, given, strict=True))


def test_a_collision_of_metrics():
  with pytest.raises(UserError, match="it gave a metric 'a', which another one has"):
    loss((TERM, {"a": TERM}), {"a"})


def test_a_plugin_is_named_as_a_configuration_writes_it():
  discovery.load_all()
  assert checks.who(Fixed()) == "metaopt @fixed()"
  assert checks.who(small.SmallNetwork()) == "SmallNetwork"


# Pools: what NumPy would broadcast or cut off.


@pytest.mark.parametrize(
  "how, field, message",
  [
    ("none", "reward", "BadEnv gave None as its pool; wanted: a selftune.Env"),
    ("spec", "reward", "BadEnv gave 'a spec' as its spec; wanted: an EnvSpec of dm_env.specs"),
    ("few", "reward", "BadEnv made a pool of 4 environments; wanted: 3, one a seed."),
    ("missing", "reward", "BadEnv: {call}() gave None; wanted: a TimeStep."),
    ("shape", "first", "BadEnv: {call}() gave bool [1] as TimeStep.first; wanted: bool [3], the"),
    ("shape", "observation", "BadEnv: {call}() gave float32 [1, 4] as TimeStep.observation; wa"),
    ("dtype", "discount", "BadEnv: {call}() gave complex128 [3] as TimeStep.discount; wanted: fl"),
    (
      "nothing",
      "reward",
      "BadEnv: {call}() gave no numbers as TimeStep.reward; wanted: float32 [3]",
    ),
  ],
)
@pytest.mark.parametrize("at", [0, 2])
def test_pools(how, field, message, at):
  with pytest.raises(UserError) as caught:
    pool = environments.make(BadEnv(how, field, at), (0, 1, 2))
    pool.reset()
    for _ in range(at):
      pool.recv()
  assert str(caught.value).startswith(message.format(call="recv" if at else "reset"))


def test_dtypes_that_lose_nothing_pass():
  observation = specs.Array((2,), np.float32)

  class Pool:
    spec, num_envs = EnvSpec(observation, specs.DiscreteArray(2)), 2

    def reset(self, stagger=False):
      return TimeStep(np.ones((2, 2), np.uint8), [0, 0.5], np.ones(2), np.ones(2, int))

    send = close = recv = reset

  class Env:
    def make(self, seeds):
      return Pool()

  pool = environments.make(Env(), (0, 1))
  for timestep in (pool.reset(), pool.recv()):
    assert timestep.reward == [0, 0.5] and timestep.observation.dtype == np.uint8
  pool = environments.CheckedPool("it", Pool(), 2, object)
  pool._wanted[0] = ((2, 2), np.dtype(np.int32))  # as of a spec of whole numbers
  pool.reset()


@pytest.mark.parametrize("picture", [None, np.zeros((2, 3)), np.zeros((2, 3, 4), np.uint8)])
def test_pictures(picture):
  class Drawn(BadPool):
    def draw(self):
      return picture

  class Env:
    def make_drawn(self, seeds):
      return Drawn(BadEnv(at=9), seeds)

  with pytest.raises(UserError, match=r"wanted: uint8 \[height, width, 3\]"):
    environments.make_drawn(Env(), (0,)).draw()
