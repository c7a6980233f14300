"""AC(lambda) on linear features and every step-size tuner, transcribed from the papers as loops.

Independent of selftune: NumPy, float64, one parameter at a time, traces reset where the papers do.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class Stream:
  """What happened: timestep t shows features[t]; action[t] led from t to t + 1."""

  features: np.ndarray  # [T+1, F]
  action: np.ndarray  # [T]
  reward: np.ndarray  # [T+1], led to the timestep
  discount: np.ndarray  # [T+1], likewise: 0 where an episode terminated
  first: np.ndarray  # [T+1]


def stream(steps=1000, features=6, actions=3, seed=0):
  """Random features and rewards; episodes terminate or are cut, and their reset step follows."""
  rng = np.random.default_rng(seed)
  first, ended = np.zeros(steps + 1, bool), np.zeros(steps + 1, bool)
  first[0] = True
  for t in range(1, steps + 1):
    first[t] = ended[t - 1]
    ended[t] = not first[t] and rng.random() < 0.05
  terminated = ended & (rng.random(steps + 1) < 0.7)
  x = (rng.random((steps + 1, features)) < 0.5) * rng.choice([-1.0, 1.0], (steps + 1, features))
  return Stream(
    features=x,
    action=rng.integers(actions, size=steps),
    reward=np.where(first, 0.0, x @ rng.normal(size=features) + 0.3 * rng.normal(size=steps + 1)),
    discount=np.where(terminated, 0.0, 1.0),
    first=first,
  )


@dataclasses.dataclass
class Settings:
  alpha: float = 0.02
  mu: float = 0.01
  gamma: float = 0.9
  lambda_: float = 0.8
  psi: float = 0.05
  kappa: float = 2.0  # of ObGD
  tau: float = 100.0  # of AutoTIDBD
  normaliser: str = "delta"  # of NOSID


def run(s: Stream, tuner, settings: Settings, actions=3):
  """Weights [T+1, F, 1 + A] and step sizes [T] or [T, N] over the stream; NaN at reset steps."""
  n_features = s.features.shape[1]
  n = n_features * (1 + actions)
  w, z, z_before = np.zeros(n), np.zeros(n), np.zeros(n)
  tuner.start(n, settings)
  weights, alphas = [w.copy()], []
  for t in range(len(s.action)):
    if s.first[t]:
      z, z_before = np.zeros(n), np.zeros(n)
      tuner.new_episode()
    if s.first[t + 1]:  # no transition: the environment resets
      weights.append(w.copy())
      alphas.append(np.full_like(alphas[-1], np.nan))
      continue
    x, y, a = s.features[t], s.features[t + 1], s.action[t]
    table = w.reshape(n_features, 1 + actions)
    logits = x @ table[:, 1:]
    p = np.exp(logits - logits.max())
    p /= p.sum()
    entropy = -np.sum(p * np.log(p))
    value, next_value = x @ table[:, 0], y @ table[:, 0]
    bootstrap = settings.gamma * s.discount[t + 1]
    delta = s.reward[t + 1] + bootstrap * next_value - value

    grad_v, grad_next, grad_u, grad_h = (np.zeros((n_features, 1 + actions)) for _ in range(4))
    for i in range(n_features):
      grad_v[i, 0], grad_next[i, 0], grad_u[i, 0] = x[i], bootstrap * y[i], x[i]
      for b in range(actions):
        grad_u[i, 1 + b] = 0.5 * x[i] * ((a == b) - p[b])
        grad_h[i, 1 + b] = -x[i] * p[b] * (math.log(p[b]) + entropy)
    grad_v, grad_next, grad_u, grad_h = (g.reshape(n) for g in (grad_v, grad_next, grad_u, grad_h))
    z_before = z.copy()
    z = settings.gamma * settings.lambda_ * z + grad_u
    alpha = tuner.step(delta, z, z_before, grad_u, grad_v, grad_next, grad_h)
    w = w + alpha * (z * delta + settings.psi * grad_h)
    weights.append(w.copy())
    alphas.append(np.asarray(alpha, float).copy())
  return np.array(weights).reshape(-1, n_features, 1 + actions), np.array(alphas)


class Constant:
  def start(self, n, settings):
    self.s = settings

  def new_episode(self):
    pass

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    return self.s.alpha


class Scalar:
  """Algorithm 1, line by line; `normalised` False leaves out lines 9 and 11 to 13."""

  def __init__(self, normalised=True):
    self.normalised = normalised

  def start(self, n, settings):
    self.s, self.h, self.beta, self.v = settings, np.zeros(n), math.log(settings.alpha), 0.0  # 1
    self.new_episode()

  def new_episode(self):
    self.z_beta, self.u = 0.0, 0.0  # 3

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    s, gl = self.s, self.s.gamma * self.s.lambda_
    self.z_beta = gl * self.z_beta + sum(g * h for g, h in zip(grad_u, self.h, strict=True))  # 7
    d = self.z_beta * delta + s.psi * sum(g * h for g, h in zip(grad_h, self.h, strict=True))  # 8
    if self.normalised:
      self.v = max(abs(d), self.v + s.mu * (abs(d) - self.v))  # 9
      self.beta += s.mu * d / (self.v if self.v > 0 else 1)  # 10
      effective = math.exp(self.beta) * sum(g * g for g in grad_u)
      self.u = max(effective, self.u + (1 - gl) * (effective - self.u))  # 11
      self.beta -= math.log(max(self.u, 1))  # 12, 13
    else:
      self.beta += s.mu * d
    d_h = sum(g * h for g, h in zip(grad_next - grad_v, self.h, strict=True))
    self.h = self.h + math.exp(self.beta) * (z * (delta + d_h) + s.psi * grad_h)  # 14
    return math.exp(self.beta)


class Vector:
  """Algorithm 2, line by line."""

  def __init__(self, normalised=True):
    self.normalised = normalised

  def start(self, n, settings):
    self.s, self.n = settings, n
    self.h, self.v = np.zeros(n), np.zeros(n)
    self.beta = np.full(n, math.log(settings.alpha))
    self.new_episode()

  def new_episode(self):
    self.z_beta, self.u = np.zeros(self.n), 0.0

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    s, gl = self.s, self.s.gamma * self.s.lambda_
    for i in range(self.n):
      self.z_beta[i] = gl * self.z_beta[i] + grad_u[i] * self.h[i]
      d = self.z_beta[i] * delta + s.psi * grad_h[i] * self.h[i]
      if self.normalised:
        self.v[i] = max(abs(d), self.v[i] + s.mu * (abs(d) - self.v[i]))
        d /= self.v[i] if self.v[i] > 0 else 1
      self.beta[i] += s.mu * d
    if self.normalised:
      effective = sum(math.exp(b) * g**2 for b, g in zip(self.beta, grad_u, strict=True))
      self.u = max(effective, self.u + (1 - gl) * (effective - self.u))
      self.beta -= math.log(max(self.u, 1))
    for i in range(self.n):
      full = delta + (grad_next[i] - grad_v[i]) * self.h[i]
      self.h[i] += math.exp(self.beta[i]) * (z[i] * full + s.psi * grad_h[i])
    return np.exp(self.beta)


class Mixed:
  """Algorithm 3, line by line."""

  def __init__(self, normalised=True):
    self.normalised = normalised

  def start(self, n, settings):
    self.s, self.n = settings, n
    self.h, self.h_hat = np.zeros(n), np.zeros(n)
    self.beta_hat, self.beta = math.log(settings.alpha), np.zeros(n)
    self.v_hat, self.v = 0.0, np.zeros(n)
    self.new_episode()

  def new_episode(self):
    self.z_beta, self.z_hat, self.u = np.zeros(self.n), 0.0, 0.0

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    s, gl = self.s, self.s.gamma * self.s.lambda_
    self.z_beta = gl * self.z_beta + grad_u * self.h  # 7
    self.z_hat = gl * self.z_hat + grad_u @ self.h_hat  # 8
    d = self.z_beta * delta + s.psi * grad_h * self.h  # 9
    d_hat = self.z_hat * delta + s.psi * (grad_h @ self.h_hat)  # 10
    if self.normalised:
      self.v = np.maximum(abs(d), self.v + s.mu * (abs(d) - self.v))  # 11
      self.v_hat = max(abs(d_hat), self.v_hat + s.mu * (abs(d_hat) - self.v_hat))  # 12
      self.beta += s.mu * d / np.where(self.v > 0, self.v, 1)  # 13
      self.beta_hat += s.mu * d_hat / (self.v_hat if self.v_hat > 0 else 1)  # 14
      effective = np.exp(self.beta_hat + self.beta) @ grad_u**2
      self.u = max(effective, self.u + (1 - gl) * (effective - self.u))  # 15
      self.beta_hat -= math.log(max(self.u, 1))  # 16, 17
    else:
      self.beta += s.mu * d
      self.beta_hat += s.mu * d_hat
    alpha = np.exp(self.beta_hat + self.beta)
    d_delta = grad_next - grad_v
    self.h = self.h + alpha * (z * (delta + d_delta * self.h) + s.psi * grad_h)  # 18
    full = delta + d_delta @ self.h_hat
    self.h_hat = self.h_hat + alpha * (z * full + s.psi * grad_h)  # 19
    return alpha


class Sid:
  def start(self, n, settings):
    self.s, self.h, self.beta = settings, np.zeros(n), math.log(settings.alpha)

  def new_episode(self):
    pass

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    self.beta += self.s.mu * self.direction(delta, z, grad_h)
    self.bound(z, grad_next - grad_v)
    d_h = (grad_next - grad_v) @ self.h
    self.h = self.h + math.exp(self.beta) * (z * (delta + d_h) + self.s.psi * grad_h)
    return math.exp(self.beta)

  def direction(self, delta, z, grad_h):
    return delta * (z @ self.h) + self.s.psi * (grad_h @ self.h)

  def bound(self, z, d_delta):
    pass


class Nosid(Sid):
  largest = 0.0

  def direction(self, delta, z, grad_h):
    d = super().direction(delta, z, grad_h)
    self.largest = max(self.largest, abs(delta) if self.s.normaliser == "delta" else abs(d))
    return d / self.largest if self.largest > 0 else d

  def bound(self, z, d_delta):
    overlap = abs(z @ d_delta)
    if overlap > 0:
      self.beta = math.log(min(math.exp(self.beta), 1 / overlap))


class ObGD:
  def start(self, n, settings):
    self.s = settings

  def new_episode(self):
    pass

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    m = self.s.alpha * self.s.kappa * max(abs(delta), 1) * sum(abs(e) for e in z)
    return self.s.alpha / max(1, m)


class Tidbd:
  def start(self, n, settings):
    self.s, self.n, self.h = settings, n, np.zeros(n)
    self.beta = np.full(n, math.log(settings.alpha))

  def new_episode(self):
    pass

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    alpha = np.zeros(self.n)
    for i in range(self.n):
      self.beta[i] += self.s.mu * delta * grad_u[i] * self.h[i]
      alpha[i] = math.exp(self.beta[i])
      keep = max(1 - alpha[i] * grad_u[i] * z[i], 0)
      self.h[i] = self.h[i] * keep + alpha[i] * (delta * z[i] + self.s.psi * grad_h[i])
    return alpha


class AutoTidbd:
  def start(self, n, settings):
    self.s, self.n, self.h, self.eta = settings, n, np.zeros(n), np.zeros(n)
    self.beta = np.full(n, math.log(settings.alpha))

  def new_episode(self):
    pass

  def step(self, delta, z, z_before, grad_u, grad_v, grad_next, grad_h):
    d = grad_next - grad_u
    for i in range(self.n):
      old = math.exp(self.beta[i])
      semi = abs(delta * grad_u[i] * self.h[i])
      forget = old * d[i] * z_before[i] * (semi - self.eta[i]) / self.s.tau
      self.eta[i] = max(abs(delta * d[i] * self.h[i]), self.eta[i] - forget)
      step = self.s.mu * delta * d[i] * self.h[i]
      self.beta[i] -= step / self.eta[i] if self.eta[i] > 0 else step
    m = max(-sum(math.exp(b) * e * q for b, e, q in zip(self.beta, d, z_before, strict=True)), 1)
    self.beta -= math.log(m)
    alpha = np.exp(self.beta)
    for i in range(self.n):
      keep = max(1 + alpha[i] * d[i] * z[i], 0)
      self.h[i] = self.h[i] * keep + alpha[i] * (delta * z[i] + self.s.psi * grad_h[i])
    return alpha
