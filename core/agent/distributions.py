"""Action distributions: the meaning of a policy's parameters.

A distribution is stateless; its methods take the parameters a network produced, with any leading
batch shape [...], and the sample as stored in a trajectory.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from dm_env import specs

from ..api.contracts import Distribution
from ..api.errors import UserError
from ..api.types import Array

UNBOUNDED = 1e9  # bounds beyond this are none: LQR's are 1e10, others' the largest float


class Categorical:
  """Softmax policy over `size` discrete actions; the parameters are logits.

  A logit of -inf masks an action: it is never taken, and adds nothing to entropy, KL or gradients.
  """

  def __init__(self, num_actions: int):
    self.size = num_actions

  def sample(self, key: Array, params: Array) -> Array:
    """Draws actions, int32 [...], with logits [..., A]."""
    return jax.random.categorical(key, params).astype(jnp.int32)

  def mode(self, params: Array) -> Array:
    """Returns the most probable actions, int32 [...], of logits [..., A]."""
    return jnp.argmax(params, axis=-1).astype(jnp.int32)

  def log_prob(self, params: Array, sample: Array) -> Array:
    """Computes log pi, [...], of actions [...] under logits [..., A]."""
    log_p = jax.nn.log_softmax(params)
    return jnp.take_along_axis(log_p, jnp.expand_dims(sample, -1), axis=-1).squeeze(-1)

  def entropy(self, params: Array) -> Array:
    """Computes the entropy in nats, [...], of logits [..., A]."""
    log_p = jax.nn.log_softmax(_finite(params))
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

  def kl(self, params: Array, reference: Array) -> Array:
    """Computes KL(params || reference) in nats, [...], of logits [..., A] each."""
    log_p, log_q = (jax.nn.log_softmax(_finite(x)) for x in (params, reference))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)

  def normal_kl(self, params: Array) -> Array:
    """Raises UserError: logits [..., A] have no normal to compare with."""
    raise UserError("discrete actions have no KL to a normal: write @entropy() for @normal_kl().")

  def to_action(self, sample: Array) -> Array:
    """Returns the action, [...]: a sample is one already."""
    return sample


def _finite(logits: Array) -> Array:
  """Returns logits [..., A] with -inf as a number: 0 times that is 0, and not NaN."""
  return jnp.where(jnp.isneginf(logits), -1e30, logits)


class SquashedGaussian:
  """A diagonal Gaussian squashed by tanh into the bounds of the actions (STAC, section 9.3).

  The parameters are what the network gives, [..., 2 D]: for each of D actions x, then for each y,

      mean = tanh(x),  log std = s_min + (s_max - s_min) (tanh(y) + 1) / 2
      u ~ N(mean, std),  action = minimum + (maximum - minimum) (tanh(u) + 1) / 2

  A sample is u, before the squashing, from which log-probabilities are exact where tanh has long
  rounded to 1. Densities are those of tanh(u); KLs do not depend on an invertible squashing.
  """

  LOG_STD_MIN, LOG_STD_MAX = -4.0, 0.0  # RLax's; the paper gives none

  def __init__(self, minimum: np.ndarray, maximum: np.ndarray):
    """Takes the bounds of the actions, [D] each."""
    self.size = 2 * len(minimum)
    self._minimum, self._maximum, self._range = minimum, maximum, maximum - minimum

  def _mean_log_std(self, params: Array) -> tuple[Array, Array]:
    """Returns mean and log std of the Gaussian, [..., D] each, of parameters [..., 2 D]."""
    x, y = jnp.split(jnp.tanh(params), 2, axis=-1)
    return x, self.LOG_STD_MIN + (self.LOG_STD_MAX - self.LOG_STD_MIN) * (y + 1) / 2

  def sample(self, key: Array, params: Array) -> Array:
    """Draws u, before the squashing, [..., D], with parameters [..., 2 D]."""
    mean, log_std = self._mean_log_std(params)
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)

  def mode(self, params: Array) -> Array:
    """Returns the mean of the Gaussian, [..., D]; squashed, the median of the actions."""
    return self._mean_log_std(params)[0]

  def log_prob(self, params: Array, sample: Array) -> Array:
    """Computes the log density of tanh(u), [...], for u [..., D] and parameters [..., 2 D].

    The constant factor of scaling to the actions' bounds is left out: it cancels in ratios.
    """
    mean, log_std = self._mean_log_std(params)
    normal = -0.5 * (((sample - mean) / jnp.exp(log_std)) ** 2 + math.log(2 * math.pi)) - log_std
    # log d tanh(u) / du = log(1 - tanh(u)^2), without its cancellation at large |u|:
    # 1 - tanh(u)^2 = 4 / (e^u + e^-u)^2, and log(e^u + e^-u) = u + softplus(-2 u).
    log_slope = 2 * (math.log(2) - sample - jax.nn.softplus(-2 * sample))
    return jnp.sum(normal - log_slope, axis=-1)

  def entropy(self, params: Array) -> Array:
    """Raises UserError: of parameters [..., 2 D] it has no closed form."""
    raise UserError(
      "the entropy of a squashed Gaussian has no closed form: write @normal_kl() for @entropy()."
    )

  def normal_kl(self, params: Array) -> Array:
    """Computes KL(N(mean, std) || N(0, 1)) in nats before the squashing, [..., 2 D] -> [...]."""
    mean, log_std = self._mean_log_std(params)
    return jnp.sum(0.5 * (jnp.exp(2 * log_std) + mean**2 - 1) - log_std, axis=-1)

  def kl(self, params: Array, reference: Array) -> Array:
    """Computes KL(params || reference) in nats, [...], of parameters [..., 2 D] each."""
    # Before the squashing: KL does not change under an invertible map of both distributions.
    (mean, log_std), (mean_r, log_std_r) = map(self._mean_log_std, (params, reference))
    ratio = jnp.exp(2 * (log_std - log_std_r))
    shift = ((mean - mean_r) / jnp.exp(log_std_r)) ** 2
    return jnp.sum(0.5 * (ratio + shift - 1) - (log_std - log_std_r), axis=-1)

  def to_action(self, sample: Array) -> Array:
    """Returns the action of u [..., D], never beyond its bounds, though rounding may be."""
    # The bounds are float64; as float32 they may themselves lie outside, by half a digit.
    low, high = self._minimum, self._maximum
    least, most = _inside(low, high, sample.dtype), _inside(high, low, sample.dtype)
    low, width, least, most = (
      jnp.broadcast_to(x, sample.shape) for x in (low, self._range, least, most)
    )
    action = (low + width * (jnp.tanh(sample) + 1) / 2).astype(sample.dtype)
    return jnp.clip(action, least, most)


def _inside(bound: np.ndarray, other: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Returns the numbers of a float type nearest to `bound`, [D], on the side of `other`."""
  rounded = bound.astype(dtype)
  # Rounding may step over the bound; then the next number inwards is the nearest.
  beyond = np.where(bound < other, rounded < bound, rounded > bound)
  return np.where(beyond, np.nextafter(rounded, other.astype(dtype)), rounded)


def for_action_spec(action: specs.Array) -> Distribution:
  """Returns the distribution that serves an action space.

  Args:
    action: one discrete action, or a vector of bounded real ones, [D].

  Raises:
    UserError: no policy serves it.
  """
  # Shapes [] and [1] are both one choice.
  if isinstance(action, specs.DiscreteArray) and math.prod(action.shape) == 1:
    return Categorical(int(action.num_values))
  if isinstance(action, specs.BoundedArray) and np.issubdtype(action.dtype, np.floating):
    minimum, maximum = (np.broadcast_to(x, action.shape) for x in (action.minimum, action.maximum))
    if len(action.shape) == 1 and np.all(np.maximum(-minimum, maximum) < UNBOUNDED):
      return SquashedGaussian(minimum, maximum)
  raise UserError(
    f"no policy serves the action space {action}; a categorical policy needs one discrete action, "
    "a squashed Gaussian a vector of real numbers between finite bounds: choose another "
    "environment."
  )
