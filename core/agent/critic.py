"""Networks with an outer critic: C value heads more than those that act and are tuned.

`Network.unroll` evaluates the first `len(gamma)` heads, so that whoever asks for no critic pays for
none. The policies of critics have no meaning.
"""

import jax
import jax.numpy as jnp

from ..api.contracts import Network
from ..api.errors import UserError
from ..api.types import Array, HeadOut, PyTree, TimeStep


def stopped(network: Network, heads: int, owner: str) -> Network:
  """Returns a network whose heads from `heads` on do not train what lies before the heads.

  Args:
    network: holds all heads.
    heads: how many of them train all parameters.
    owner: the plugin, for the message.

  Raises:
    UserError: the network does not tell which of its parameters are the heads'.
  """
  alone = getattr(network, "heads_alone", None)  # a SparseNetwork has none
  if alone is None:
    raise UserError(
      f"outer.critic = 'stopped': {owner} does not say which parameters are its heads' "
      "(Network.heads_alone); write 'shared' or 'own'."
    )

  def unroll(
    params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
  ) -> tuple[HeadOut, PyTree]:
    out, new_core_state = network.unroll(params, timestep, core_state, gamma)
    if len(gamma) > heads:
      # The same numbers, of which the compiler makes one pass; they differ in their gradients.
      of_critics, _ = network.unroll(alone(params), timestep, core_state, gamma)
      out = _joined(out, of_critics, heads)
    return out, new_core_state

  return network._replace(unroll=unroll)


def apart(network: Network, critic: Network, heads: int) -> Network:
  """Returns a network of two with parameters of their own: `heads` heads, and then the critics.

  A recurrent critic has a core state of its own, which moves wherever the agent's does.

  Args:
    network: holds the first `heads` heads.
    critic: holds the critics.
    heads: of `network`.
  """

  def init(key: Array) -> PyTree:
    # Folded in, not split: the agent starts as it does without a critic.
    return {"agent": network.init(key), "critic": critic.init(jax.random.fold_in(key, 1))}

  def initial_state(batch: int) -> PyTree:
    return network.initial_state(batch), critic.initial_state(batch)

  def unroll(
    params: PyTree, timestep: TimeStep, core_state: PyTree, gamma: Array
  ) -> tuple[HeadOut, PyTree]:
    agent_state, critic_state = core_state
    out, agent_state = network.unroll(params["agent"], timestep, agent_state, gamma[:heads])
    wanted = len(gamma) > heads
    if wanted or jax.tree.leaves(critic_state):
      # Where nobody asks for a critic, one head is enough to move its core state.
      of_critics = gamma[heads:] if wanted else gamma[:1]
      judged, critic_state = critic.unroll(params["critic"], timestep, critic_state, of_critics)
      if wanted:
        out = jax.tree.map(lambda *x: jnp.concatenate(x), out, judged)
    return out, (agent_state, critic_state)

  return Network(init, initial_state, unroll)


def _joined(first: HeadOut, rest: HeadOut, heads: int) -> HeadOut:
  """Returns the first `heads` heads of one output [P, ...], and the others of another."""
  return jax.tree.map(lambda a, b: jnp.concatenate([a[:heads], b[heads:]]), first, rest)
