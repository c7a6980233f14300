"""Populations on the host: who copies whom, what a copy tries, what is kept, and the lineage."""

import dataclasses
import json
import math
import types
from typing import Any

import numpy as np
import pytest

from selftune.core.api.contracts import ExploreInputs, Interval, Number
from selftune.core.api.errors import UserError
from selftune.core.api.ranges import Decay, Fraction, NotNegative, Positive
from selftune.core.config import discovery
from selftune.core.experiment import IndependentRuns, Population
from selftune.core.record import labels, lineage, pedigree, plotting
from selftune.core.runs.population import drawn, numbers, rules_of
from selftune.core.runs.standing import Standing
from selftune.core.sweeps.program import apart_because
from selftune.plugins.populations.perturb import Perturb
from selftune.plugins.populations.tournament import Tournament
from selftune.plugins.populations.truncation import Truncation

discovery.load_all()
NAN, INF = math.nan, math.inf


def rng(seed=0):
  return np.random.default_rng(seed)


# Exploit.


def truncated(scores, quantile, draws):
  """Truncation selection as a loop over the runs, each draw in [0, 1)."""
  known = sorted((s, r) for r, s in enumerate(scores) if not math.isnan(s))
  n = max(1, math.floor(quantile * len(known)))
  best = [r for s, r in known[-n:] if s > -INF]
  diverged = sum(s == -INF for s, _ in known)
  parents = list(range(len(scores)))
  for _, run in known[: max(n, diverged)]:
    draw = next(draws)
    parent = best[int(draw * len(best))] if best else run
    if scores[parent] > scores[run]:
      parents[run] = parent
  return parents


@pytest.mark.parametrize("seed", range(20))
def test_truncation_is_the_loop(seed):
  scores = rng(seed).integers(0, 9, 11).astype(float)  # with ties
  scores[rng(seed).random(11) < 0.2] = NAN
  scores[rng(seed + 100).random(11) < 0.1 * (seed % 4)] = -INF
  quantile = (0.1, 0.25, 0.5)[seed % 3]
  draws = iter(rng(seed).random(11))
  want = truncated(scores, quantile, draws) if not np.isnan(scores).all() else list(range(11))
  np.testing.assert_array_equal(Truncation(quantile)(rng(seed), scores), want)


def test_truncation_in_plain_numbers():
  found = Truncation(0.25)(rng(), np.array([5.0, 1.0, 9.0, 3.0, 2.0, 7.0, 6.0, 4.0]))
  assert set(found[[1, 4]]) <= {2, 5} and found.tolist()[0] == 0
  assert [found[r] for r in (0, 2, 3, 5, 6, 7)] == [0, 2, 3, 5, 6, 7]
  assert Truncation(0.25)(rng(), np.array([1.0, 2.0])).tolist() == [1, 1]  # at least one
  assert Truncation(0.5)(rng(), np.array([3.0, 3.0])).tolist() == [0, 1]  # none is better
  assert Truncation()(rng(), np.array([NAN, NAN, 1.0, NAN])).tolist() == [0, 1, 2, 3]
  assert Truncation()(rng(), np.array([-INF, -INF, 1.0, -INF])).tolist() == [2, 2, 2, 2]
  assert Truncation()(rng(), np.array([-INF, -INF])).tolist() == [0, 1]
  assert Truncation()(rng(), np.full(3, NAN)).tolist() == [0, 1, 2]


def test_a_tournament_is_the_loop():
  for seed in range(10):
    scores = np.array([4.0, NAN, 1.0, 2.0, 2.0, -INF])
    known, draws, want = [0, 2, 3, 4, 5], rng(seed), list(range(6))
    for run in known:
      others = [r for r in known if r != run]
      met = others[draws.integers(4)]
      if scores[met] > scores[run]:
        want[run] = met
    np.testing.assert_array_equal(Tournament()(rng(seed), scores), want)
  assert Tournament()(rng(), np.array([1.0, NAN])).tolist() == [0, 1]
  assert Tournament()(rng(), np.array([1.0, 2.0])).tolist() == [1, 1]


# Explore.

LR, GAMMA, PLAIN = Number(0, INF, "log"), Number(0, 1, "odds"), Number(-INF, INF, "linear")


def inputs(parents, settings, found, first=None):
  columns = {name: np.array(values, float) for name, values in settings.items()}
  none = np.full(len(parents), NAN)
  first = first or columns
  return ExploreInputs(np.array(parents), found, first, (Interval(columns, none, none),))


def test_a_perturbation_multiplies_values_and_odds():
  settings = {"lr": [1e-3, 4e-3], "gamma": [0.5, 0.99], "x": [-2.0, 3.0]}
  x = inputs([1, 1], settings, {"lr": LR, "gamma": GAMMA, "x": PLAIN})
  found = Perturb(factors=(2.0,))(rng(), x)
  np.testing.assert_allclose(found["lr"], [8e-3, 8e-3])
  np.testing.assert_allclose(found["gamma"], [198 / 199, 198 / 199])  # odds 99 -> 198
  np.testing.assert_allclose(found["x"], [6, 6])
  ends = inputs([1, 0], {"gamma": [1.0, 0.0]}, {"gamma": GAMMA})
  np.testing.assert_array_equal(Perturb()(rng(), ends)["gamma"], [0, 1])


def test_factors_are_drawn_evenly_and_apart():
  x = inputs([0] * 4000, {"a": [1.0] * 4000, "b": [1.0] * 4000}, {"a": LR, "b": LR})
  found = Perturb(factors=(0.8, 1.25))(rng(), x)
  for value in found.values():
    assert set(value) == {0.8, 1.25} and abs(np.mean(value == 0.8) - 0.5) < 0.04
  assert abs(np.mean(found["a"] == found["b"]) - 0.5) < 0.04
  first = {"a": np.full(4000, 7.0), "b": np.full(4000, 8.0)}
  again = Perturb(resample=0.3)(rng(), x._replace(first=first))
  assert abs(np.mean(again["a"] == 7) - 0.3) < 0.03 and abs(np.mean(again["b"] == 8) - 0.3) < 0.03


def test_coordinates_and_back():
  for number, x, u in [
    (LR, 1e-3, math.log(1e-3)),
    (GAMMA, 0.99, math.log(99)),
    (GAMMA, 1e-9, math.log(1e-9)),
    (PLAIN, -3.0, -3.0),
  ]:
    np.testing.assert_allclose(number.coordinate(x), u, rtol=1e-6)
    np.testing.assert_allclose(number.value(u), x, rtol=1e-6)
  assert not LR.is_bounded and not GAMMA.is_bounded and not PLAIN.is_bounded
  assert Number(1e-4, 1, "log").is_bounded and Number(0.1, 0.9, "odds").is_bounded


def test_numbers_have_the_ends_of_their_ranges_or_of_bounds():
  annotations = {"a": Positive, "b": Decay, "c": Fraction, "d": float, "e": NotNegative | None}
  found = numbers(Population(Truncation(), Perturb()), annotations)
  assert [tuple(found[name]) for name in "abcde"] == [
    (0, INF, "log"),
    (0, 1, "odds"),
    (0, 1, "odds"),
    (-INF, INF, "linear"),
    (0, INF, "log"),
  ]
  bounds = {"a": (0.1, 2.0), "b": (0.9, 0.99), "c": (0.0, 0.5), "e": (0.0, 1.0)}
  found = numbers(Population(Truncation(), Perturb(), bounds=bounds), annotations)
  assert [tuple(found[name]) for name in "abce"] == [
    (0.1, 2, "log"),
    (0.9, 0.99, "odds"),
    (0, 0.5, "linear"),
    (0, 1, "linear"),
  ]
  with pytest.raises(ValueError, match=r"'b'\] takes float from 0 to below 1, not 1.0"):
    numbers(Population(Truncation(), Perturb(), bounds={"b": (0.5, 1.0)}), annotations)


def test_first_values_are_drawn_evenly_on_the_scale():
  found = {"a": Number(1e-5, 1e-1, "log"), "b": Number(0.1, 0.999, "odds")}
  values = drawn(found, 2000, 3)
  assert values == drawn(found, 2000, 3) != drawn(found, 2000, 4)
  for name, number in found.items():
    low, high = number.coordinate(np.array([number.low, number.high]))
    u = (number.coordinate(np.array(values[name])) - low) / (high - low)
    assert u.min() >= 0 and u.max() <= 1
    np.testing.assert_allclose(np.quantile(u, (0.25, 0.5, 0.75)), (0.25, 0.5, 0.75), atol=0.04)
  with pytest.raises(ValueError, match=r"takes bounds: population.bounds\['a'\]"):
    drawn({"a": LR}, 2, 0)


# An exchange.


@dataclasses.dataclass(frozen=True)
class Given:
  """Parents and settings as they are given."""

  parents: Any = ()
  settings: Any = None
  memory = 2

  def check(self, numbers):
    pass

  def __call__(self, rng, x):
    return self.parents if isinstance(x, np.ndarray) else self.settings


KNOWN = {"a.gamma": Decay, "a.rate": Positive}
FIRST = {"a.gamma": [0.9, 0.5, 0.99], "a.rate": [1.0, 2.0, 3.0]}


def rules(parents, settings=None, **more):
  exploit, explore = Given(np.array(parents)), Given(settings=settings)
  return rules_of(Population(exploit, explore, every_env_steps=100, **more), KNOWN, FIRST, seed=1)


def exchange(rules, standing=None, diverged=(0, 0, 0), ended=(0, 0, 0), most=100):
  standing = standing or rules.begin().counted([[(1.0, 5), (3.0, 5)], [], [(7.0, 5)]])
  return rules.exchange(standing, np.array(diverged, bool), np.array(ended, bool), most)


def test_an_exchange_in_plain_numbers():
  tried = {"a.gamma": np.array([0.97, 0.8, 0.7]), "a.rate": np.array([5.0, 8.0, 9.123456789])}
  of_two = rules([2, 1, 2], tried)
  standing, made = exchange(of_two, most=230)
  np.testing.assert_array_equal(made.scores, [2, NAN, 7])
  assert made.copies and made.number == 1 and made.before == FIRST
  assert (
    made.after
    == standing.settings
    == {
      "a.gamma": [0.97, 0.5, 0.99],
      "a.rate": [5.0, 2.0, 3.0],
    }
  )
  assert standing.due == 300 and standing.exchanges == 1
  np.testing.assert_array_equal(standing.began, [7, NAN, 7])
  assert np.isnan(standing.scores).all()
  (interval,) = standing.history
  np.testing.assert_array_equal(interval.scores, made.scores)
  np.testing.assert_array_equal(interval.settings["a.rate"], [1, 2, 3])
  assert np.isnan(interval.began).all()
  for due in (400, 500):
    standing, _ = exchange(of_two, standing.counted([[(0.0, 1)], [], [(1.0, 1)]]), most=due - 100)
    assert standing.due == due
  assert standing.exchanges == 3 and len(standing.history) == 2  # explore's memory
  np.testing.assert_array_equal(standing.history[-1].settings["a.rate"], [5, 2, 3])


def test_diverged_runs_are_the_worst_and_ended_ones_take_no_part():
  _, made = exchange(rules([0, 1, 2]), diverged=(0, 1, 0), ended=(1, 0, 0))
  np.testing.assert_array_equal(made.scores, [NAN, -INF, 7])
  assert not made.copies and made.after == FIRST


def test_a_copy_keeps_within_what_its_number_can_be():
  tried = {"a.gamma": np.array([0.99999999, 0.5, 0.5]), "a.rate": np.array([-1.0, 2, 3])}
  _, made = exchange(rules([2, 1, 2], tried))
  assert made.after["a.gamma"][0] == 0.99  # as float32 it would be 1: the parent's
  assert made.after["a.rate"][0] == 3.0  # 0 is not above 0
  _, made = exchange(rules([2, 1, 2], tried | {"a.rate": np.full(3, NAN)}))
  assert made.after["a.rate"][0] == 3.0
  bounds = {"a.rate": (0.5, 4.0), "a.gamma": (0.4, 0.995)}
  _, made = exchange(rules([2, 1, 2], tried, bounds=bounds))
  assert (made.after["a.gamma"][0], made.after["a.rate"][0]) == (0.995, 0.5)


def test_what_is_drawn_follows_from_the_seed_and_the_exchange():
  def of(seed, again=0):
    population = Population(Truncation(0.5), Perturb(factors=(0.5, 0.7, 1.5, 1.7)))
    found = rules_of(population, KNOWN, FIRST, seed)
    standing = found.begin()._replace(exchanges=again)
    scored = standing.counted([[(1.0, 1)], [(2.0, 1)], [(3.0, 1)]])
    return exchange(found, scored)[1].after["a.gamma"][0]

  assert of(1) == of(1)
  assert len({of(seed, again) for seed in range(4) for again in range(2)}) > 1


@pytest.mark.parametrize(
  "parents, settings, message",
  [
    ([0, 1], None, r"gave int64 \[2\] as parents; wanted: integers \[R\] = \[3\]"),
    ([0.0, 1.0, 2.0], None, "gave float64"),
    ([0, 1, 3], None, "there are runs 0 to 2"),
    ([1, 1, 2], None, "made run 0 a copy of run 1; their scores are 2.0 and nan"),
    ([0, 2, 2], None, "made run 1 a copy of run 2; their scores are nan and 7.0"),
    ([2, 1, 2], {"a.rate": np.ones(3)}, "gave no settings of just a.gamma, a.rate"),
    ([2, 1, 2], {"a.rate": np.ones(3), "a.gamma": np.ones(2)}, r"gave float64 \[2\] as 'a.gamma'"),
    ([2, 1, 2], {"a.rate": np.array(list("xyz")), "a.gamma": np.ones(3)}, "as 'a.rate'; wanted"),
  ],
)
def test_what_a_plugin_must_not_give(parents, settings, message):
  with pytest.raises(UserError, match=message):
    exchange(rules(parents, settings))


def test_a_standing_comes_back_from_a_document():
  standing, _ = exchange(rules([2, 1, 2], {"a.gamma": np.full(3, 0.3), "a.rate": np.full(3, 0.1)}))
  standing, _ = exchange(rules([0, 1, 2]), standing, diverged=(0, 1, 0))
  standing = standing.counted([[(0.1, 3)], [], []])
  again = Standing.from_json(json.loads(json.dumps(standing.to_json(), allow_nan=False)))
  assert repr(again) == repr(standing)


def test_the_best_run_is_told_by_what_it_scores_or_began_with():
  begun, none = rules([0, 1, 2]).begin(), np.zeros(3, bool)
  scored = begun.counted([[(1.0, 1)], [(5.0, 1), (5.0, 1)], [(9.0, 1), (0.0, 1)]])
  copied = begun._replace(began=np.array([3.0, NAN, 4.0]))
  assert begun.best(none) == 0 and scored.best(none) == 1 and copied.best(none) == 2
  assert scored.best(np.array([False, True, False])) == 2
  assert copied.counted([[], [(8.0, 1)], []]).best(none) == 1


# What is configured.


@pytest.mark.parametrize(
  "runs, population, message",
  [
    ({"repeats": 2}, {}, "varies what runs.settings holds, which is no number"),
    ({"settings": {"train.seed": (1, 2)}}, {}, "which is no number"),
    ({"settings": {"a.b": (1.0,)}}, {}, "takes two runs or more"),
    ({"settings": {"a.rate": (1.0, 2.0)}}, {"bounds": {"a.rat": (1, 2)}}, "mean 'a.rate'"),
    ({"settings": {"a.b": (1.0, 2.0)}}, {"bounds": {"a.b": (2, 1)}}, "write the lesser first"),
  ],
)
def test_mistakes(runs, population, message):
  with pytest.raises(ValueError, match=message):
    varied = Population(Truncation(), Perturb(), **population)
    rules_of(varied, {"a.b": float, "a.rate": float}, IndependentRuns(**runs).grid(0)[1], 0)


def test_first_values_lie_within_bounds():
  with pytest.raises(ValueError, match=r"'a.rate' begins at 3.0, beyond .* from 0.5"):
    rules([0, 1, 2], bounds={"a.rate": (0.5, 2.5)})


def test_points_of_a_sweep_are_no_population():
  population = Population(Truncation(), Perturb())
  runtime = IndependentRuns({"a.x": (1.0, 2.0)}, population=population)
  why = apart_because(types.SimpleNamespace(runs=runtime), [{"a.x": 1.0}], {"a.x": ("a.x",)})
  assert why == "runs.population varies what a point sets"


def test_factors_are_above_0():
  with pytest.raises(ValueError, match="must be numbers above 0"):
    Perturb(factors=(0.0, 1.0))


# The lineage.


def row(exchange, run, parent, value, before=None, score=None):
  was = value if before is None else before
  own = {"env_steps": 100 * exchange, "exchange": exchange, "run": run, "parent": parent}
  return own | {"score": score, "diverged": False, "a.x": value, "before/a.x": was}


ROWS = [
  *(row(0, 0, 0, 1.0), row(0, 1, 1, 2.0), row(0, 2, 2, 3.0)),
  *(row(1, 0, 2, 4.0, 1.0, 5.0), row(1, 1, 1, 2.0, score=6.0), row(1, 2, 2, 3.0, score=7.0)),
  *(row(2, 0, 0, 4.0, score=9.0), row(2, 1, 0, 5.0, 2.0, 1.0), row(2, 2, 2, 3.0)),
]


def test_lines_of_the_lineage_survive_a_kill_and_a_resume(tmp_path):
  path = tmp_path / lineage.FILE
  assert lineage.read(path) == []
  lineage.begin(path, 0)
  lineage.append(path, ROWS[:6])
  with path.open("a") as file:
    file.write('{"env_steps": 200, "exchange": 2, "run": 0, "par')
  assert [r.exchange for r in lineage.read(path)] == [0, 0, 0, 1, 1, 1]
  lineage.begin(path, 200)  # a resumed run goes on behind whole lines
  lineage.append(path, ROWS[6:])
  found = lineage.read(path)
  assert [(r.exchange, r.run, r.parent) for r in found[3:7]] == [
    *((1, 0, 2), (1, 1, 1), (1, 2, 2), (2, 0, 0)),
  ]
  assert found[3] == lineage.Row(100, 1, 0, 2, 5.0, {"a.x": 4.0}, {"a.x": 1.0})
  lineage.begin(path, 150)
  assert len(lineage.read(path)) == 6
  lineage.begin(path, 0)  # of a new run, nothing is kept
  assert lineage.read(path) == []


def test_ancestors():
  rows = [lineage.Row(*list(r.values())[:5], {}, {}) for r in ROWS]
  assert lineage.ancestors(rows, 1) == [(0, 2), (1, 0), (2, 1)]
  assert lineage.ancestors(rows, 2) == [(0, 2), (1, 2), (2, 2)]
  assert pedigree.best(rows) == 0 and pedigree.best(rows[:6]) == 2 and pedigree.best(rows[:3]) == 0


def test_the_picture_of_a_lineage(tmp_path):
  path = tmp_path / lineage.FILE
  lineage.append(path, ROWS)
  found = pedigree.segments(lineage.read(path), "a.x", 300.0)
  assert found[0, 0] == [((0, 1), (100, 1))] and found[2, 2] == [((200, 3), (300, 3))]
  assert found[1, 0] == [((100, 3), (100, 4)), ((100, 4), (200, 4))]  # from its parent's to its own
  assert found[2, 1] == [((200, 4), (200, 5)), ((200, 5), (300, 5))]
  (tmp_path / "metrics.jsonl").write_text('{"env_steps": 300, "episode_return": 1.0}\n')
  _, panel = plotting.figure([tmp_path]).axes
  assert panel.get_title(loc="left") == "a.x of each run"
  every, own = panel.collections
  assert len(every.get_segments()) == 11
  assert [tuple(map(tuple, s)) for s in own.get_segments()] == [
    *(((0, 3), (100, 3)), ((100, 3), (100, 4)), ((100, 4), (200, 4)), ((200, 4), (300, 4))),
  ]
  assert [text.get_text() for text in panel.get_legend().get_texts()] == ["ancestry of run 0"]
  plotting.plot([tmp_path], tmp_path / "curves.png")
  assert labels.labels([tmp_path / "runs" / "001"]) == [f"{tmp_path.name} run 001"]
