"""A small agent and random trajectories, in whatever float type JAX is set to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from selftune.core.agent.functions import Functions
from selftune.core.api.contracts import Network
from selftune.core.api.types import EnvSpec, HeadOut, TimeStep, Trajectory
from selftune.core.engine.learner import Learner
from selftune.core.experiment import Agent, Objective, Outer
from selftune.plugins.losses.entropy import Entropy
from selftune.plugins.losses.leaky_vtrace import LeakyVTrace
from selftune.plugins.losses.policy_gradient import PolicyGradient
from selftune.plugins.losses.policy_kl import PolicyKL
from selftune.plugins.losses.value import Value
from selftune.plugins.metaopt.metagradient import Metagradient
from selftune.plugins.optimizers.rmsprop import RMSProp

OBSERVATION, ACTIONS = 4, 3
SPEC = EnvSpec(
  specs.Array((OBSERVATION,), np.float32), specs.DiscreteArray(ACTIONS, dtype=np.int32)
)


@dataclasses.dataclass(frozen=True)
class SmallNetwork:
  """One tanh layer, then linear heads that also see their gamma, unless it is not `embedded`."""

  hidden: int = 5
  embedded: bool = True

  def build(self, spec, policy_size, heads):
    size = int(np.prod(spec.observation.shape))

    def init(key):
      shapes = {
        "torso": (size, self.hidden),
        "policy": (heads, self.hidden, policy_size),
        "value": (heads, self.hidden),
        "gamma": (self.hidden,),
      }
      keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
      return {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}

    def unroll(params, timestep, core_state, gamma):
      p = len(gamma)
      x = jnp.tanh(timestep.observation @ params["torso"])
      seen = gamma if self.embedded else jnp.ones_like(gamma)
      x = x[None] + 0.1 * seen[:, None, None, None] * params["gamma"][None, None, None]
      policy = jnp.einsum("ptbh,pha->ptba", x, params["policy"][:p])
      return HeadOut(policy, jnp.einsum("ptbh,ph->ptb", x, params["value"][:p])), core_state

    def heads_alone(params):
      return {**jax.lax.stop_gradient(params), "policy": params["policy"], "value": params["value"]}

    return Network(init, lambda batch: (), unroll, heads_alone)


@dataclasses.dataclass(frozen=True)
class TableNetwork:
  """A network whose parameters are its outputs, as a dict of HeadOut's fields."""

  def build(self, spec, policy_size, heads):
    def unroll(params, timestep, core_state, gamma):
      return HeadOut(**{name: x[: len(gamma)] for name, x in params.items()}), core_state

    return Network(lambda key: {}, lambda batch: (), unroll)


def table(heads: int, t: int, b: int, seed: int = 0, size: int = ACTIONS):
  """Random parameters of a TableNetwork."""
  rng = np.random.default_rng(seed)
  return {
    "policy": rng.normal(size=(heads, t + 1, b, size)),
    "value": rng.normal(size=(heads, t + 1, b)),
  }


def trajectory(seed: int, t: int = 5, b: int = 4, dtype=np.float32, lag: int = 0) -> Trajectory:
  """A random trajectory with terminations, a truncation and their reset steps."""
  rng = np.random.default_rng(seed)
  first = rng.random((t + 1, b)) < 0.15
  discount = np.where(rng.random((t + 1, b)) < 0.2, 0.0, 1.0)
  reward = np.where(first, 0.0, rng.normal(size=(t + 1, b)))
  return Trajectory(
    timestep=TimeStep(
      rng.normal(size=(t + 1, b, OBSERVATION)).astype(dtype),
      reward.astype(dtype),
      np.where(first, 1.0, discount).astype(dtype),
      first,
    ),
    action=rng.integers(0, ACTIONS, size=(t, b)).astype(np.int32),
    behaviour=rng.normal(size=(t, b, ACTIONS)).astype(dtype),
    core_state=(),
    params_version=np.full((t, b), -lag, np.int32),
  )


def agent(metaopt=None, **kwargs) -> Agent:
  """An agent; keyword arguments replace fields of it, or of its objective."""
  settings = dict(
    network=SmallNetwork(),
    metaopt=metaopt or Metagradient(tune=("*",)),
  )
  minimised = dict(
    corrector=LeakyVTrace(gamma=0.9, lambda_=0.95),
    losses=(PolicyGradient(), Value(), Entropy()),
    optimizer=RMSProp(learning_rate=0.01),
    outer=Outer(losses=(PolicyKL(),)),
  )
  fields = {f.name for f in dataclasses.fields(Objective)}
  minimised |= {name: value for name, value in kwargs.items() if name in fields}
  rest = {name: value for name, value in kwargs.items() if name not in fields}
  return Agent(**(settings | {"objective": Objective(**minimised)} | rest))


def learner(agent: Agent, devices=1, b=4, t=5, micro_batch=None, updates=100, spec=SPEC) -> Learner:
  return Learner(Functions(agent, spec, updates), jax.devices()[:devices], b, t, micro_batch)


def first_state(learner: Learner, batch: Trajectory, seed: int = 0):
  timestep = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch.timestep)
  return learner.init(jax.random.key(seed), timestep)
