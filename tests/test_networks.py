"""Networks: contract, heads, gamma embedding, pooling, and NumPy mirrors."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dm_env import specs
from jax import test_util

from selftune.core.api.types import EnvSpec, TimeStep
from selftune.plugins.networks._convolution import convolve
from selftune.plugins.networks._pooling import max_pool
from selftune.plugins.networks.impala_resnet import ImpalaResnet
from selftune.plugins.networks.minatar_cnn import MinAtarCnn
from selftune.plugins.networks.mlp import Mlp
from selftune.plugins.networks.nature_cnn import NatureCnn

ACTIONS = 3
HEADS = 3
GAMMA = np.array([0.99, 0.95, 0.9], np.float32)
NETWORKS = {  # every network, small
  "mlp": functools.partial(Mlp, hidden=(8, 8)),
  "nature_cnn": NatureCnn,
  "impala_resnet": functools.partial(ImpalaResnet, channels=(2, 4)),
  "minatar_cnn": functools.partial(MinAtarCnn, head_hidden=8),
}
OBSERVATIONS = {
  "mlp": (5,),
  "nature_cnn": (36, 36, 1),
  "impala_resnet": (9, 12, 2),
  "minatar_cnn": (6, 5, 3),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
with_embedding = pytest.mark.parametrize("embedding", ["shared", "per_head"])


def env_spec(shape: tuple[int, ...]) -> EnvSpec:
  dtype = np.uint8 if len(shape) == 3 else np.float32
  return EnvSpec(specs.Array(shape, dtype), specs.DiscreteArray(ACTIONS))


@functools.cache
def build(name: str, **options):
  """The jitted unroll of a small network, and parameters far from the initial ones."""
  network = NETWORKS[name](**options).build(env_spec(OBSERVATIONS[name]), ACTIONS, HEADS)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda p: 0.2 * rng.normal(size=p.shape).astype(p.dtype), shapes)
  return jax.jit(lambda params, steps, gamma: network.unroll(params, steps, (), gamma)[0]), params


def timesteps(name: str, *time_batch: int) -> TimeStep:
  rng = np.random.default_rng(0)
  shape = (*time_batch, *OBSERVATIONS[name])
  image = rng.integers(0, 256, shape, np.uint8)
  observation = image if len(shape) == 5 else rng.normal(size=shape).astype(np.float32)
  zeros = np.zeros(time_batch, np.float32)
  return TimeStep(observation, zeros, zeros + 1, zeros > 0)


def close(actual, expected, **tolerance):
  jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, **tolerance), actual, expected)


# The contract.


@every_network
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_and_dtypes(name, dtype):
  unroll, params = build(name, compute_dtype=dtype)
  out = unroll(params, timesteps(name, 2, 4), GAMMA)
  assert out.policy.shape == (3, 2, 4, ACTIONS)
  assert out.value.shape == (3, 2, 4)
  assert {x.dtype for x in jax.tree.leaves((params, out))} == {np.dtype("float32")}


@every_network
def test_bfloat16_rounds_but_stays_close(name):
  steps = timesteps(name, 2, 4)
  exact_unroll, params = build(name)
  exact = exact_unroll(params, steps, GAMMA)
  unroll, _ = build(name, compute_dtype="bfloat16")
  rounded = unroll(params, steps, GAMMA)
  for e, r in zip(exact, rounded, strict=True):
    error = np.abs(e - r).max() / np.abs(e).max()
    assert 1e-4 < error < 0.03
  gradient = jax.eval_shape(jax.grad(lambda p: unroll(p, steps, GAMMA).value.sum()), params)
  assert {g.dtype for g in jax.tree.leaves(gradient)} == {np.dtype("float32")}


@every_network
def test_unroll_is_one_step_at_a_time(name):
  unroll, params = build(name)
  steps = timesteps(name, 2, 3)
  whole = unroll(params, steps, GAMMA)
  for t in range(2):
    for b in range(3):
      one = jax.tree.map(lambda x, t=t, b=b: x[t : t + 1, b : b + 1], steps)
      expected = jax.tree.map(lambda x, t=t, b=b: x[:, t : t + 1, b : b + 1], whole)
      close(unroll(params, one, GAMMA), expected, rtol=1e-4, atol=1e-5)


@every_network
def test_networks_without_a_core_have_no_state(name):
  network = NETWORKS[name]().build(env_spec(OBSERVATIONS[name]), ACTIONS, HEADS)
  assert network.initial_state(7) == ()


# LSTM.

UNITS = 6
RECURRENT = ("mlp", "nature_cnn", "impala_resnet")
FIRST = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], bool)


@pytest.mark.parametrize(
  "name, dtype",
  [
    ("mlp", "float32"),
    *(pytest.param(n, "float32", marks=pytest.mark.slow) for n in RECURRENT if n != "mlp"),
    *(pytest.param(n, "bfloat16", marks=pytest.mark.slow) for n in RECURRENT),
  ],
)
def test_recurrent_networks_step_by_step(name, dtype):
  network = NETWORKS[name](lstm=UNITS, compute_dtype=dtype).build(
    env_spec(OBSERVATIONS[name]), ACTIONS, HEADS
  )
  params = network.init(jax.random.key(0))
  steps = timesteps(name, 5, 3)._replace(first=FIRST)
  rng = np.random.default_rng(0)
  start = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), network.initial_state(3))
  unroll = jax.jit(network.unroll)
  whole, end = unroll(params, steps, start, GAMMA)
  assert {x.dtype for x in jax.tree.leaves((whole, end))} == {np.dtype("float32")}
  state = start
  tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == "float32" else dict(rtol=0.05, atol=0.05)
  for t in range(5):
    cleared = jax.tree.map(lambda x, t=t: np.where(FIRST[t][:, None], 0, x), state)
    one = jax.tree.map(lambda x, t=t: x[t : t + 1], steps)
    out, state = unroll(params, one._replace(first=np.zeros((1, 3), bool)), cleared, GAMMA)
    expected = jax.tree.map(lambda x, t=t: x[:, t : t + 1], whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), out, expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), state, end)


def test_lstm_equals_loops():
  """i, g, f, o = W [x, h] + b;  c <- sig(f + 1) c + sig(i) tanh(g);  h <- sig(o) tanh(c)."""
  network = Mlp(hidden=(4,), lstm=UNITS).build(env_spec(OBSERVATIONS["mlp"]), ACTIONS, HEADS)
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
  steps = timesteps("mlp", 5, 3)._replace(first=FIRST)
  start = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), network.initial_state(3))
  _, end = network.unroll(params, steps, start, GAMMA)
  dense = next(iter(params["torso"].values()))
  lstm = next(v for k, v in params["lstm"].items() if "linear" in k)
  sig = lambda x: 1 / (1 + np.exp(-x))
  for b in range(3):
    h, c = np.array(start.hidden[b]), np.array(start.cell[b])
    for t in range(5):
      if FIRST[t, b]:
        h, c = np.zeros(UNITS), np.zeros(UNITS)
      x = np.maximum(steps.observation[t, b] @ dense["w"] + dense["b"], 0)
      i, g, f, o = np.split(np.concatenate([x, h]) @ lstm["w"] + lstm["b"], 4)
      c = sig(f + 1) * c + sig(i) * np.tanh(g)
      h = sig(o) * np.tanh(c)
    np.testing.assert_allclose(end.hidden[b], h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end.cell[b], c, rtol=1e-4, atol=1e-5)


def test_strided_blocks_halve_images_without_pooling():
  network = ImpalaResnet(channels=(4, 4, 4), pooling="stride", lstm=UNITS).build(
    env_spec((64, 48, 9)), ACTIONS, HEADS
  )
  params = jax.eval_shape(network.init, jax.random.key(0))
  (linear,) = [v for k, v in params["lstm"].items() if "linear" in k]
  assert linear["w"].shape == (8 * 6 * 4 + UNITS, 4 * UNITS)


@pytest.mark.parametrize(
  "plugin, shape, message",
  [
    (NatureCnn, (4,), r"'nature_cnn' takes images .* have shape \(4,\); write .*@mlp\(\)"),
    (ImpalaResnet, (84, 84), r"'impala_resnet' takes images .* have shape \(84, 84\); write"),
    (NatureCnn, (4, 84, 84), r"'nature_cnn' takes images of 36 x 36 and more, channels last"),
  ],
)
def test_observations_that_do_not_fit(plugin, shape, message):
  with pytest.raises(ValueError, match=message):
    plugin().build(env_spec(shape), ACTIONS, 1)


# Heads.


@pytest.mark.parametrize("embedding", ["none", "shared", "per_head"])
def test_heads_are_independent(embedding):
  unroll, params = build("mlp", gamma_embedding=embedding)
  steps = timesteps("mlp", 2, 2)
  own = {k: v for k, v in params["heads"]["~"].items() if v.shape[0] == HEADS}
  moved = {k: v + np.array([0, 1, 0]).reshape(3, *[1] * (v.ndim - 1)) for k, v in own.items()}
  changed = {**params["heads"]["~"], **jax.tree.map(np.float32, moved)}
  before = unroll(params, steps, GAMMA)
  after = unroll({**params, "heads": {"~": changed}}, steps, GAMMA)
  for x, y in zip(before, after, strict=True):
    np.testing.assert_array_equal(x[0], y[0])
    np.testing.assert_array_equal(x[2], y[2])
    assert np.all(x[1] != y[1])


@pytest.mark.slow
def test_heads_start_different_and_near_the_uniform_policy():
  init = jax.jit(Mlp().build(env_spec((5,)), ACTIONS, HEADS).init)
  params = init(jax.random.key(0))["heads"]["~"]
  for name, p in params.items():
    assert p.shape[0] == HEADS
    if name.endswith("_w"):
      heads = np.asarray(p).reshape(HEADS, -1)
      assert np.all(np.abs(np.corrcoef(heads) - np.eye(HEADS)) < 0.25)
    else:
      assert not np.any(p)
  # variance = scale / fan_in
  assert np.std(params["policy_hidden_w"]) == pytest.approx(256**-0.5, rel=0.02)
  assert np.std(params["value_output_w"]) == pytest.approx(256**-0.5, rel=0.1)
  assert np.std(params["policy_output_w"]) == pytest.approx(0.1 * 256**-0.5, rel=0.1)


@pytest.mark.parametrize("embedding", ["none", "shared", "per_head"])
def test_first_heads_are_those_of_the_full_evaluation(embedding):
  unroll, params = build("mlp", gamma_embedding=embedding)
  steps = timesteps("mlp", 2, 2)
  full = unroll(params, steps, GAMMA)
  for count in (1, 2):
    some = unroll(params, steps, GAMMA[:count])
    close(some, jax.tree.map(lambda x, n=count: x[:n], full), rtol=1e-5, atol=1e-6)


def test_heads_that_are_not_asked_for_cost_nothing():
  unroll, params = build("mlp")

  def flops(count):
    lowered = unroll.lower(params, timesteps("mlp", 4, 32), GAMMA[:count])
    return lowered.compile().cost_analysis()["flops"]

  multiplications = 5 * 8 + 8 * 8 + 2 * 8 * 256 + 256 * (ACTIONS + 1)
  assert flops(1) == pytest.approx(2 * 128 * multiplications, rel=0.2)
  assert flops(3) > 2.5 * flops(1)


def test_more_discounts_than_heads_is_an_error():
  unroll, params = build("mlp")
  with pytest.raises(ValueError, match="4 discounts, but the network was built with 3 heads"):
    unroll(params, timesteps("mlp", 1, 1), np.ones(4, np.float32))


# The paper's networks.


@pytest.mark.parametrize("heads, expected", [(1, 2_085_603), (3, 6_061_321)])
def test_parameter_count_of_table_2(heads, expected):
  # torso: three blocks, each one convolution from the block before and four of its own width,
  #   (9*4*16 + 16) + 4 (9*16*16 + 16) + (9*16*32 + 32) + 4 (9*32*32 + 32) + 5 (9*32*32 + 32),
  #   in all 97744
  # head: 84 -> 42 -> 21 -> 11, so D = 11*11*32 = 3872, and with 18 actions
  #   2 (3872*256 + 256) + (256*18 + 18) + (256 + 1) = 1987859
  network = ImpalaResnet().build(env_spec((84, 84, 4)), 18, heads)
  params = jax.eval_shape(network.init, jax.random.key(0))
  assert sum(p.size for p in jax.tree.leaves(params)) == expected == 97_744 + heads * 1_987_859


def test_parameter_count_of_nature_cnn():
  # 84 -> 20 -> 9 -> 7: (64*4*32 + 32) + (16*32*64 + 64) + (9*64*64 + 64) + (3136*512 + 512)
  network = NatureCnn().build(env_spec((84, 84, 4)), 18, 1)
  params = jax.eval_shape(network.init, jax.random.key(0))
  assert sum(p.size for p in jax.tree.leaves(params["torso"])) == 1_684_128


def np_conv(x, w, b):
  """SAME convolution 3x3, one output pixel at a time."""
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  y = np.zeros((*x.shape[:2], w.shape[-1]))
  for i in range(x.shape[0]):
    for j in range(x.shape[1]):
      y[i, j] = np.tensordot(padded[i : i + 3, j : j + 3], w, 3) + b
  return y


def np_pool(x):
  """SAME max-pool 3x3 with stride 2: odd sizes are padded at both ends, even ones at the last."""
  h, w, channels = x.shape
  y = np.full(((h + 1) // 2, (w + 1) // 2, channels), -np.inf)
  for i in range(y.shape[0]):
    for j in range(y.shape[1]):
      top, left = 2 * i - h % 2, 2 * j - w % 2
      y[i, j] = x[max(top, 0) : top + 3, max(left, 0) : left + 3].max((0, 1))
  return y


def np_head(x, params, head, name, extra=0.0):
  p = {k: v[head] for k, v in params["heads"]["~"].items() if v.shape[0] == HEADS}
  hidden = np.maximum(x @ p[f"{name}_hidden_w"] + p[f"{name}_hidden_b"] + extra, 0)
  return hidden @ p[f"{name}_output_w"] + p[f"{name}_output_b"]


@pytest.mark.parametrize("pooling", ["fast", "xla"])
def test_residual_network_in_numpy(pooling):
  unroll, params = build("impala_resnet", pooling=pooling)
  steps = timesteps("impala_resnet", 1, 2)
  out = unroll(params, steps, GAMMA)
  torso = params["torso"]["~"]
  conv = lambda x, name: np_conv(x, torso[f"{name}_w"], torso[f"{name}_b"])
  for b in range(2):
    x = steps.observation[0, b] / 255
    for i in (0, 1):
      x = np_pool(conv(x, f"block_{i}_in"))
      for unit in (0, 1):
        y = conv(np.maximum(x, 0), f"block_{i}_unit_{unit}_a")
        x = x + conv(np.maximum(y, 0), f"block_{i}_unit_{unit}_b")
    x = np.maximum(x, 0).reshape(-1)
    for p in range(HEADS):
      close(out.policy[p, 0, b], np_head(x, params, p, "policy"), rtol=1e-4, atol=1e-5)
      close(out.value[p, 0, b], np_head(x, params, p, "value")[0], rtol=1e-4, atol=1e-5)


def np_dense(x, layer):
  return x @ layer["w"] + layer["b"]


def test_minatar_network_in_numpy_of_bits():
  network = MinAtarCnn(channels=2, dense=8).build(env_spec((6, 5, 3)), ACTIONS, 1)
  params = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
  observation = np.random.default_rng(0).random((1, 4, 6, 5, 3)) < 0.3
  zeros = np.zeros((1, 4), np.float32)
  steps = TimeStep(observation, zeros, zeros, zeros > 0)
  out, _ = jax.jit(network.unroll)(params, steps, (), GAMMA[:1])
  (conv,) = (v for v in params["torso"].values() if "conv_w" in v)
  (dense,) = (v for v in params["torso"].values() if "w" in v)
  heads = params["heads"]["~"]
  assert set(heads) == {f"{name}_output_{x}" for name in ("policy", "value") for x in "wb"}
  for b in range(4):
    # A convolution without padding is one with it, but for its border.
    x = np_conv(observation[0, b].astype(np.float32), conv["conv_w"], conv["conv_b"])[1:-1, 1:-1]
    x = np.maximum(np_dense(np.maximum(x, 0).reshape(-1), dense), 0)
    close(out.policy[0, 0, b], x @ heads["policy_output_w"][0], rtol=1e-4, atol=1e-5)
    close(out.value[0, 0, b], (x @ heads["value_output_w"][0])[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("torsos", ["shared", "separate"])
@pytest.mark.parametrize("head_hidden", [None, 4])
def test_mlp_with_its_options_in_numpy(torsos, head_hidden):
  unroll, params = build("mlp", torsos=torsos, head_hidden=head_hidden, activation="tanh")
  steps = timesteps("mlp", 2, 3)
  out = unroll(params, steps, GAMMA)

  def tower(name):
    x = steps.observation
    for i in (0, 1):
      x = np.tanh(np_dense(x, params[name][f"mlp/~/linear_{i}"]))
    return x

  assert ("value_torso" in params) == (torsos == "separate")
  towers = {"policy": "torso", "value": "value_torso" if torsos == "separate" else "torso"}
  for p in range(HEADS):
    for name, found in (("policy", out.policy[p]), ("value", out.value[p][..., None])):
      x = tower(towers[name])
      head = {k: v[p] for k, v in params["heads"]["~"].items()}
      if head_hidden:
        x = np.tanh(x @ head[f"{name}_hidden_w"] + head[f"{name}_hidden_b"])
      close(found, x @ head[f"{name}_output_w"] + head[f"{name}_output_b"], rtol=1e-4, atol=1e-5)


def test_orthogonal_weights():
  """Orthonormal up to the scale, square or not; uniform: their entries have no favourite sign."""
  network = Mlp((64, 64), torsos="separate", init="orthogonal").build(
    env_spec((9,)), ACTIONS, HEADS
  )
  params = jax.jit(network.init)(jax.random.key(0))
  scales = {(9, 64): 2, (64, 64): 2, (64, 256): 2, (256, ACTIONS): 1e-4, (256, 1): 1}
  seen = set()
  for path, w in jax.tree_util.tree_leaves_with_path(params):
    if not jax.tree_util.keystr(path).endswith("w']"):
      assert not np.any(w)
      continue
    for matrix in np.asarray(w).reshape(-1, *w.shape[-2:]):
      thin = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
      scale = scales[matrix.shape]
      close(thin @ thin.T, scale * np.eye(len(thin)), atol=2e-5 * scale)
      seen.add(matrix.shape)
      assert abs(matrix.mean()) < 4 * np.sqrt(scale / (matrix.size * max(matrix.shape)))
  assert seen == set(scales)


@pytest.mark.parametrize(
  "options, message",
  [
    ({"torsos": "separate", "lstm": 4}, "torsos = 'shared'"),
    ({"head_hidden": None, "gamma_embedding": "shared"}, "gamma_embedding = 'none'"),
  ],
)
def test_options_that_do_not_go_together(options, message):
  with pytest.raises(ValueError, match=message):
    Mlp(**options).build(env_spec((5,)), ACTIONS, HEADS)


@pytest.mark.slow
def test_pooling_options_have_equal_gradients():
  steps = timesteps("impala_resnet", 2, 2)
  gradients = []
  for pooling in ("fast", "xla"):
    unroll, params = build("impala_resnet", pooling=pooling)
    loss = lambda p, f=unroll: jnp.sum(f(p, steps, GAMMA).value ** 2)
    gradients.append(jax.jit(jax.grad(loss))(params))
  assert np.any(gradients[0]["torso"]["~"]["block_0_in_w"])
  close(*gradients, rtol=1e-4, atol=1e-5)


# The gamma embedding.


@with_embedding
def test_gamma_embedding_in_numpy(embedding):
  unroll, params = build("mlp", hidden=(), gamma_embedding=embedding)
  steps = timesteps("mlp", 1, 1)
  out = unroll(params, steps, GAMMA)
  heads = params["heads"]["~"]
  rows = {"shared": 1, "per_head": HEADS}[embedding]
  embeddings = heads["gamma_embedding"].reshape(rows, 16)
  for p in range(HEADS):
    x = np.concatenate([steps.observation[0, 0], GAMMA[p] * embeddings[p % rows]])
    for name, actual in (("policy", out.policy[p, 0, 0]), ("value", out.value[p, 0])):
      w = np.concatenate([heads[f"{name}_hidden_w"], heads[f"{name}_gamma_w"]], 1)
      whole = {"heads": {"~": {**heads, f"{name}_hidden_w": w}}}
      close(actual, np_head(x, whole, p, name), rtol=1e-5, atol=1e-5)


@with_embedding
def test_gradient_with_respect_to_gamma(embedding):
  with jax.enable_x64(True):
    unroll, params = build("mlp", gamma_embedding=embedding)
    params = jax.tree.map(np.float64, params)
    steps = timesteps("mlp", 1, 2)

    def total(gamma):
      out = unroll(params, steps, gamma)
      return out.policy.sum() + out.value.sum()

    gamma = GAMMA.astype(np.float64)
    gradient = jax.grad(total)(gamma)
    assert gradient.dtype == np.float64 and np.all(np.abs(gradient) > 1e-3)
    for p in range(HEADS):
      step = 1e-6 * np.eye(HEADS)[p]
      slope = (total(gamma + step) - total(gamma - step)) / 2e-6
      np.testing.assert_allclose(gradient[p], slope, rtol=1e-6)


def test_without_embedding_gamma_is_ignored():
  unroll, params = build("mlp")
  steps = timesteps("mlp", 1, 2)
  close(unroll(params, steps, GAMMA), unroll(params, steps, GAMMA / 2), rtol=0)


def test_bfloat16_still_tells_discounts_apart():
  unroll, params = build("mlp", gamma_embedding="shared", compute_dtype="bfloat16")
  gammas = np.array([0.991, 0.992, 0.993], np.float32)
  assert len(np.unique(gammas.astype(jnp.bfloat16))) == 1
  steps = timesteps("mlp", 1, 1)
  values = [unroll(params, steps, np.full(1, g)).value.item() for g in gammas]
  assert len(set(values)) == 3


# Convolution.


def lax_convolve(x, w, stride, padding):
  layout = ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(x, w, (stride,) * 2, padding, dimension_numbers=layout)


every_convolution = pytest.mark.parametrize(
  "size, kernel, stride, padding",
  [(5, 3, 1, "SAME"), (9, 4, 2, "SAME"), (10, 3, 2, "VALID"), (12, 8, 4, "VALID")],
)


@every_convolution
def test_convolution_and_its_derivatives_equal_lax(size, kernel, stride, padding):
  rng = np.random.default_rng(0)
  x, dx = (rng.normal(size=(2, size, size + 1, 3)).astype(np.float32) for _ in range(2))
  w, dw = (rng.normal(size=(kernel, kernel, 3, 4)).astype(np.float32) for _ in range(2))

  @functools.partial(jax.jit, static_argnums=0)
  def everything(f):
    f = functools.partial(f, stride=stride, padding=padding)
    loss = lambda x, w: jnp.sum(jnp.sin(f(x, w)))
    gradient = jax.grad(loss, (0, 1))
    return f(x, w), jax.jvp(f, (x, w), (dx, dw)), jax.jvp(gradient, (x, w), (dx, dw))

  close(everything(convolve), everything(lax_convolve), rtol=1e-4, atol=1e-3)


def test_the_forms_of_an_accelerator_equal_those_of_a_cpu(monkeypatch):
  steps = timesteps("impala_resnet", 1, 2)

  def found(form):
    monkeypatch.setenv("SELFTUNE_CONVOLUTION", form)
    unroll, params = build.__wrapped__("impala_resnet")  # one that was built keeps its form
    return jax.value_and_grad(lambda p: jnp.sum(unroll(p, steps, GAMMA).value))(params)

  close(found("xla"), found("own"), rtol=1e-4, atol=1e-3)


def test_convolution_under_vmap():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 3, 6, 2)).astype(np.float32)
  w = rng.normal(size=(2, 3, 3, 2, 4)).astype(np.float32)
  gradient = jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), (0, 1))
  runs = jax.jit(jax.vmap(gradient))(x, w)
  for run in range(2):
    expected = jax.jit(gradient)(x[run], w[run])
    close(jax.tree.map(lambda g, run=run: g[run], runs), expected, rtol=1e-4, atol=1e-3)
  inputs_only = jax.vmap(convolve, (2, None))(np.moveaxis(x, 0, 2), w[0])
  close(inputs_only, np.stack([convolve(y, w[0]) for y in x]), rtol=1e-5, atol=1e-5)
  kernels_only = jax.vmap(convolve, (None, 3))(x[0], np.moveaxis(w, 0, 3))
  close(kernels_only, np.stack([convolve(x[0], v) for v in w]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["nature_cnn", "impala_resnet"])
def test_every_convolution_in_a_loop_has_the_layout_that_is_fast_on_cpu(name):
  unroll, params = build(name)
  steps = timesteps(name, 2, 3)
  loss = lambda p, s: jnp.sum(unroll(p, jax.tree.map(lambda x: x[None], s), GAMMA).value)
  looped = jax.jit(lambda p: jax.lax.map(lambda s: jax.grad(loss)(p, s), steps))
  convolutions = [line for line in looped.lower(params).as_text().splitlines() if "dim_num" in line]
  assert len(convolutions) >= 3 * 3 - 1  # forward, and both derivatives but the first layer's input
  for line in convolutions:
    assert "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line


# Pooling.


def xla_pool(x):
  return hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


every_shape = pytest.mark.parametrize("shape", [(2, 84, 8, 3), (1, 11, 6, 4), (3, 1, 2, 1)])


@every_shape
def test_pool_and_its_derivatives_equal_xla_with_ties(shape):
  # few distinct values, so that most windows have several equal maxima; small integers: exact
  rng = np.random.default_rng(0)
  x, tangent = (rng.integers(-2, 2, shape).astype(np.float32) for _ in range(2))
  y, ours = jax.jit(lambda x: jax.vjp(max_pool, x))(x)
  expected, theirs = jax.jit(lambda x: jax.vjp(xla_pool, x))(x)
  np.testing.assert_array_equal(y, expected)
  np.testing.assert_array_equal(y[0], np_pool(x[0]))
  cotangent = rng.integers(-9, 9, y.shape).astype(np.float32)
  (gradient,) = ours(cotangent)
  np.testing.assert_array_equal(gradient, theirs(cotangent)[0])
  # forward mode is the transpose of reverse mode
  _, forward = jax.jit(lambda x, t: jax.jvp(max_pool, (x,), (t,)))(x, tangent)
  assert np.sum(forward * cotangent) == np.sum(gradient * tangent)
  assert np.any(forward != 0)


def test_pool_derivatives_against_finite_differences():
  x = np.random.default_rng(0).permutation(2 * 7 * 6 * 2).reshape(2, 7, 6, 2).astype(np.float32)
  # distinct integers: a step of 0.25 changes no maximum
  test_util.check_grads(jax.jit(max_pool), (x,), 1, modes=("fwd", "rev"), eps=0.25, rtol=1e-3)


def test_pool_under_vmap_and_forward_over_reverse():
  x = np.random.default_rng(0).normal(size=(4, 1, 7, 6, 2)).astype(np.float32)

  @jax.jit
  def hessian_vector(tangent):
    gradient = jax.vmap(jax.grad(lambda x: jnp.sum(max_pool(x) ** 3)))
    return jax.jvp(gradient, (x,), (tangent,))

  gradient, product = hessian_vector(np.ones_like(x))
  y, backward = jax.jit(lambda x: jax.vjp(xla_pool, x))(x[:, 0])
  close(gradient[:, 0], backward(3 * y**2)[0], rtol=1e-5)
  close(product[:, 0], backward(6 * y)[0], rtol=1e-5)
