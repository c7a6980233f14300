"""What a cycle of metagradients is made of, for `selftune check` to differentiate numerically."""

from collections.abc import Sequence
from typing import Any

from ...core.api import AgentFns, Cycle, LearnerState, Target, Trajectory
from ._batches import drawn, held_out


def cycle(
  metaopt: Any, fns: AgentFns, states: Sequence[LearnerState], batches: Sequence[Trajectory]
) -> Cycle | None:
  """Returns the cycle of a `Metagradient` that begins with the first of these batches.

  Args:
    metaopt: the plugin.
    fns: the agent.
    states: before each batch, and after the last.
    batches: K + 1 at least, [T+1, B] each.
  """
  del fns
  if not metaopt.tune:
    return None
  k, mode = metaopt.inner_updates, metaopt.outer_batch
  # With 'next' the first batch of a cycle judges the one before, and eta moves before it learns.
  meta = states[mode == "next"].meta_state
  # As 'same' has it; the other modes differ in what follows.
  inner, outer, judged = list(batches[:k]), batches[k - 1], k - 1
  match mode:
    case "next" | "fresh":
      outer, judged = batches[k], k
    case "held_out":
      inner = [held_out(batch, metaopt.held_out)[0] for batch in inner]
      outer = held_out(outer, metaopt.held_out)[1]
    case "replayed":
      # The draw of `Metagradient._learn` once more: it depends on the state before the batch alone.
      inner = [drawn(s, s.meta_state.replay, b) for s, b in zip(states, inner, strict=False)]
  more, used = (), None
  if metaopt.context is not None:
    # The statistics that update n saw are those with its batch among them.
    recents = [state.meta_state.context.recent for state in states[1:]]
    more = meta.context.weights
    used = lambda etas, more, n: metaopt.context.applied(more, recents[n], etas)
  bootstrap = metaopt.bootstrap
  found = Cycle(
    meta.etas,
    tuple(inner),
    outer,
    judged,
    bootstrap
    and Target(bootstrap.steps, bootstrap.learning_rate, bootstrap.policy, bootstrap.value),
    more,
  )
  return found if used is None else found._replace(used=used)
