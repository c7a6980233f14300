"""A figure of your own: a grid of experiments, and what is drawn and said of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure as Page

from selftune import Cell, Cost, Figure, Result, bound, final, register, smooth

CAR = "experiments/metatrace_mountain_car"


def draw(results: list[Result]) -> Any:
  page = Page(layout="constrained")
  axes = page.subplots()
  for result in results:
    axes.plot(smooth(result.returns, 20).mean(0), label=result.cell.name)
  axes.legend()
  return page


def claims(results: list[Result]) -> list[str]:
  return [f"{result.cell.name}: {final(result.returns):.1f}" for result in results]


@register("paper", "mine2027")
@dataclasses.dataclass(frozen=True)
class Mine:
  """Two step-size tuners on mountain car."""

  def figures(self) -> Mapping[str, Figure]:
    cells = tuple(
      Cell(tuner, {"tuner": tuner}, CAR, (f"tuner = @{tuner}()",))
      for tuner in ("metatrace", "tidbd")
    )
    quick = bound(cells, ("runs.repeats = 1", "runs.episodes = 5"))
    cost = Cost(runs=240, env_steps=100_500, time="not yet measured", machine="CPU")
    about = "mountain car: return of two step-size tuners"
    return {"mine/fig1": Figure(about, cost, cells, quick, draw, claims)}
