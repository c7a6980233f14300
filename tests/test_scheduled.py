"""The schedule: the values that it gives, that they are used, and what it refuses."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import small

from selftune.plugins.metaopt.fixed import Fixed
from selftune.plugins.metaopt.scheduled import Scheduled


def updated(metaopt, updates, **kwargs):
  """The parameters and metrics after updates on one batch."""
  learner, batch = small.learner(small.agent(metaopt, **kwargs)), small.trajectory(0)
  state, seen = small.first_state(learner, batch), []
  for _ in range(updates):
    state, metrics = learner.update(state, learner.put(batch))
    seen.append(jax.device_get(metrics))
  return jax.device_get(state.params), seen


def test_values_are_on_a_straight_line_of_logits():
  ends = {"leaky_vtrace.gamma": (0.8, 0.99), "entropy.cost": (0.009, 0.001)}
  metaopt = Scheduled(ends, updates=4)
  _, seen = updated(metaopt, 6, heads=2)
  logit = lambda x: np.log(x / (1 - x))
  way = np.minimum(np.arange(6) / 4, 1)
  # A cost is a part of the configured one.
  for name, scale in (("leaky_vtrace.gamma", 1.0), ("entropy.cost", small.Entropy().cost)):
    first, last = (logit(end / scale) for end in ends[name])
    wanted = scale / (1 + np.exp(-(first + way * (last - first))))
    for head in range(2):
      given = [metrics[f"tuned/{name}/{head}"] for metrics in seen]
      np.testing.assert_allclose(given, wanted, rtol=1e-5)


def test_values_that_stay_equal_configured_ones():
  corrector = small.LeakyVTrace(gamma=0.75, lambda_=0.95)
  held, _ = updated(Scheduled({"leaky_vtrace.gamma": (0.75, 0.75)}), 3)
  configured, _ = updated(Fixed(), 3, corrector=corrector)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), held, configured)


def test_without_ends_it_equals_fixed():
  (held, _), (fixed, _) = updated(Scheduled(), 3), updated(Fixed(), 3)
  jax.tree.map(np.testing.assert_array_equal, held, fixed)


def test_a_configuration_with_it_starts_no_device():
  # `train.learner_devices` is known only once it is read.
  code = """
from selftune.core import config
from jax._src.xla_bridge import backends_are_initialized
config.load("experiments/minatar_impala", (
  "agent.metaopt = @scheduled()", "scheduled.ends = {'vtrace.gamma': (0.8, 0.99)}"))
print(backends_are_initialized())
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "False\n"


def test_what_it_refuses():
  with pytest.raises(ValueError, match="matches no tunable"):
    small.agent(Scheduled({"vtrace.gamma": (0.8, 0.9)}))
  with pytest.raises(ValueError, match="must lie strictly between 0 and 1"):
    small.agent(Scheduled({"leaky_vtrace.gamma": (0.8, 1.0)}))
