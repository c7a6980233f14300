"""Sensitivity, effective dimension and random search: by hand, by loops, and as published."""

import itertools
import math

import numpy as np
import pytest

from selftune.core.reports import sensitivity as s

# Two environments, settings (rate, decay) in (0, 1) x (0, 1).
HAND = np.array([[0.0, 1.0, 0.5, 0.8], [1.0, 0.2, 0.7, 0.6]])
VALUES = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def test_sensitivity_by_hand():
  # Tuned: (1.0 + 1.0) / 2. Means of settings: 0.5, 0.6, 0.6, 0.7, so h* is the last.
  found = s.sensitivity(HAND)
  assert (found.tuned, found.common, found.star) == (1.0, pytest.approx(0.7), 3)
  assert found.best.tolist() == [1, 0] and found.value == pytest.approx(0.3)
  # None: 0.7. Rate alone, decay at 1: (1.0 + 0.6) / 2; decay alone, rate at 1: (0.8 + 0.7) / 2.
  tuned = s.tuned_of(HAND, VALUES, found.star)
  np.testing.assert_allclose(tuned, [0.7, 0.8, 1.0])
  assert s.effective_dimension(tuned) == 2
  assert s.effective_dimension(np.array([0.7, 0.95, 1.0])) == 1
  assert s.effective_dimension(np.array([-1.0, -0.9, -0.9])) == 1  # 95 % of -0.9 is out of reach


def test_one_setting_has_nothing_to_tune():
  gamma = np.array([[0.3], [0.9]])
  found = s.sensitivity(gamma)
  assert found.value == 0 and found.tuned == pytest.approx(0.6)
  tuned = s.tuned_of(gamma, np.zeros((1, 0), int), found.star)
  assert tuned.shape == (1,) and s.effective_dimension(tuned) == 0


# The scores of PPO around its best setting and where it is best in each environment, as the authors
# normalised them: `lambda_ac` in analysis/data_expected_over_seeds.csv (MIT) of
# github.com/jadkins99/hyperparameter_sensitivity at e571b0b. What they have no score of is NaN.
NAN = math.nan
# (lambda, entropy, actor's rate, critic's rate) -> ant, halfcheetah, hopper, swimmer, walker2d
PPO = {
  (0.9, 0.01, 1e-4, 1e-3): (1.25592, 1.10978, 1.12572, 0.88564, 1.43591),
  (0.7, 0.01, 1e-4, 1e-3): (1.40851, 1.15764, 0.99147, 0.88593, 1.30072),
  (0.5, 0.01, 1e-4, 1e-3): (1.34411, 1.19502, 0.89279, 0.87652, 1.13987),
  (0.9, 1e-3, 1e-4, 1e-3): (1.27142, 1.09339, 1.13983, 0.75123, 1.41523),
  (0.9, 0.10, 1e-4, 1e-3): (0.95554, 1.04958, 1.03484, 0.21633, 1.50751),
  (0.9, 0.01, 1e-5, 1e-3): (0.67540, 0.63236, 1.20631, 0.83153, 0.85615),
  (0.9, 0.01, 1e-3, 1e-3): (0.63627, 0.67548, 0.96462, 0.91269, 1.22226),
  (0.9, 0.01, 1e-2, 1e-3): (0.57374, NAN, 0.72403, 0.88374, 0.88882),
  (0.9, 0.01, 0.10, 1e-3): (0.02283, NAN, 0.11528, 0.66517, 0.15155),
  (0.9, 0.01, 1e-4, 1e-5): (0.97598, 0.83990, 0.62405, 0.79506, 0.18330),
  (0.9, 0.01, 1e-4, 1e-4): (1.26665, 1.11888, 0.94859, 0.92763, 0.92192),
  (0.9, 0.01, 1e-4, 1e-2): (0.98895, 1.03079, 0.92319, 0.75594, 0.60699),
  (0.9, 0.01, 1e-4, 0.10): (0.92588, 0.71320, 0.96476, 0.70047, 0.10928),
  (0.9, 1e-3, 1e-5, 1e-3): (0.67891, 0.63132, 1.20860, 0.82419, 0.86305),
  (0.9, 1e-3, 1e-4, 1e-4): (1.26694, 1.10900, 0.93405, 1.00602, 0.93841),
}


def test_the_published_numbers_of_ppo():
  """Adkins et al. 2024: score 1.265, sensitivity 0.103, effective dimension 1."""
  gamma = np.array(list(PPO.values())).T
  settings = list(PPO)
  found = s.sensitivity(gamma)
  assert [round(float(x), 3) for x in (found.tuned, found.value)] == [1.265, 0.103]
  assert settings[int(found.star)] == (0.9, 0.01, 1e-4, 1e-3)
  values = np.array([[sorted({h[d] for h in settings}).index(h[d]) for d in range(4)] for h in PPO])
  assert s.effective_dimension(s.tuned_of(gamma, values, found.star)) == 1


def mirror(gamma, values):
  """Tuned, common, and the scores of k tuned hyperparameters, by loops over what the words say."""
  environments, settings, dimensions = *gamma.shape, values.shape[1]

  def best(e, allowed):
    return max((gamma[e, h] for h in allowed if not math.isnan(gamma[e, h])), default=math.nan)

  whole = [
    h for h in range(settings) if not any(math.isnan(gamma[e, h]) for e in range(environments))
  ]
  star = max(whole, key=lambda h: sum(gamma[e, h] for e in range(environments)))
  tuned = []
  for k in range(dimensions + 1):
    of_k = []
    for chosen in itertools.combinations(range(dimensions), k):
      allowed = [
        h
        for h in range(settings)
        if all(values[h, d] == values[star, d] for d in range(dimensions) if d not in chosen)
      ]
      of_k.append(sum(best(e, allowed) for e in range(environments)) / environments)
    tuned.append(max(of_k))
  return star, tuned


def test_it_is_what_loops_find():
  random = np.random.default_rng(0)
  values = np.array(list(itertools.product(range(3), range(2), range(2))))
  many = random.normal(size=(20, 4, 12))
  many[:, 1, 5] = many[:, 3, 0] = np.nan
  found = s.sensitivity(many)
  tuned = s.tuned_of(many, values, found.star)
  for i, gamma in enumerate(many):
    star, expected = mirror(gamma, values)
    assert found.star[i] == star
    np.testing.assert_allclose(tuned[i], expected)
    np.testing.assert_allclose([found.common[i], found.tuned[i]], [expected[0], expected[-1]])
  assert (np.diff(tuned, axis=-1) >= 0).all()


def test_scores_are_normalised_by_all_agents():
  a, b = np.array([[0.0, 10.0], [5.0, 5.0]]), np.array([[20.0, np.nan, 40.0], [5.0, 5.0, 5.0]])
  low, high = s.percentiles([a, b])
  # Of 0 10 20 40 the 5th percentile is at 0.15 of the first gap, the 95th at 0.85 of the last.
  np.testing.assert_allclose((low[0], high[0]), (1.5, 37.0))
  gamma = s.normalised(a, low, high)
  np.testing.assert_allclose(gamma, [[-1.5 / 35.5, 8.5 / 35.5], [0, 0]])
  nobody = s.percentiles([np.full((1, 2), np.nan)])
  assert np.isnan(nobody).all()


def test_rounding_is_no_difference():
  a = np.array([[0.1 + 0.2, 0.3], [1e9, 1e9 + 10]])
  assert a[0, 0] != a[0, 1]
  gamma = s.normalised(a, *s.percentiles([a]))
  np.testing.assert_allclose(gamma[0], 0, atol=1e-15)
  np.testing.assert_allclose(gamma[1], [-0.05 / 0.9, 0.95 / 0.9])


def test_what_is_missing_is_nobodys_best():
  gamma = np.array([[0.9, np.nan, 0.1], [np.nan, 0.8, 0.3]])
  found = s.sensitivity(gamma)
  assert found.best.tolist() == [0, 1] and found.star == 2
  np.testing.assert_allclose((found.tuned, found.common), (0.85, 0.2))
  assert np.isnan(s.sensitivity(np.array([[0.5], [np.nan]])).value)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_random_search_is_what_all_draws_are_on_average(n):
  scores = np.random.default_rng(n).normal(size=n)
  expected = [
    np.mean([max(drawn) for drawn in itertools.combinations(scores, k)]) for k in range(1, n + 1)
  ]
  np.testing.assert_allclose(s.expected_best(scores), expected)
  with_gap = np.insert(scores, n // 2, np.nan)
  np.testing.assert_allclose(s.expected_best(with_gap), [*expected, max(scores)])


def test_random_search_by_hand_and_of_many():
  # Of 1, 2 and 4: the mean 7/3; pairs (1,2) (1,4) (2,4): 10/3; all: 4.
  best = s.expected_best(np.array([4.0, 1.0, 2.0]))
  np.testing.assert_allclose(best, [7 / 3, 10 / 3, 4])
  assert [s.tries_to_match(best, x) for x in (2.0, 3.0, 4.0, 4.1)] == [1, 2, 3, None]
  many = s.expected_best(np.arange(2000.0))
  assert np.isfinite(many).all() and (np.diff(many) > 0).all() and many[-1] == pytest.approx(1999)
  assert np.isnan(s.expected_best(np.full(2, np.nan))).all()


def test_seeds_are_drawn_anew_within_each_setting():
  runs = {"a": np.array([[[1.0, 3.0, np.nan], [7.0, 7.0, 7.0]]]), "b": np.full((1, 1, 3), np.nan)}
  drawn = list(s.resampled(runs, 400))
  a = np.concatenate([x["a"] for x in drawn])
  assert a.shape == (400, 1, 2) and (a[:, 0, 1] == 7).all()
  values, counts = np.unique(a[:, 0, 0], return_counts=True)
  assert values.tolist() == [1, 2, 3]  # two of two: 1, 2 and 3 with 1/4, 1/2 and 1/4
  np.testing.assert_allclose(counts / 400, [0.25, 0.5, 0.25], atol=0.1)
  assert np.isnan(drawn[0]["b"]).all()
  np.testing.assert_allclose(s.means(runs["a"]), [[2.0, 7.0]])
  again = np.concatenate([x["a"] for x in s.resampled(runs, 400)])
  np.testing.assert_array_equal(a, again)


def test_a_bootstrap_in_chunks_has_every_resample(monkeypatch):
  monkeypatch.setattr(s, "CHUNK", 30)
  sizes = [len(x["a"]) for x in s.resampled({"a": np.zeros((1, 2, 3))}, 12)]
  assert sizes == [5, 5, 2]
