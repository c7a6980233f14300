"""`@optax()`: the optimisers of Optax at a rate that may be traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from selftune.plugins.optimizers.optax import Optax

RATE = 0.03


# Of the last two the rate is no factor of the update.
@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "lion", "fromage", "rprop"])
def test_it_is_the_optimiser_of_that_name(name):
  rng = np.random.default_rng(0)
  params = {"w": jnp.array(rng.normal(size=(3, 2)), jnp.float32)}
  options = {"eps_root": 1e-8} if name in ("adam",) else {}
  reference = getattr(optax, name)(RATE, **options)
  want, theirs = params, reference.init(params)
  got, ours = params, Optax(name, RATE).init(params)
  step = jax.jit(lambda rate, *rest: Optax(name, rate).update(*rest, jnp.float32(0)))
  for _ in range(4):
    grads = {"w": jnp.array(rng.normal(size=(3, 2)), jnp.float32)}
    updates, theirs = reference.update(grads, theirs, want)
    want = optax.apply_updates(want, updates)
    got, ours = step(RATE, grads, ours, got)
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-5, atol=1e-7)


def test_what_asks_for_more_than_gradients_is_refused():
  with pytest.raises(ValueError, match=r"'lbfgs' with kwargs = \{\} makes no step of"):
    Optax("lbfgs")


def test_the_derivative_by_the_rate():
  params, grads = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, 0.25])}
  moved = lambda rate: Optax("sgd", rate).update(grads, Optax("sgd").init(params), params, 0.0)
  _, by_rate = jax.jvp(lambda rate: moved(rate)[0], (RATE,), (1.0,))
  np.testing.assert_allclose(by_rate["w"], [-0.5, -0.25], rtol=1e-6)
