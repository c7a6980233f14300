"""The learning curves of a study on MinAtar beside PPO's: their rows, and a picture.

  selftune study studies/minatar --out minatar
  python benchmarks/ppo_minatar.py --source purejaxrl --out ppo.csv
  python benchmarks/minatar_curves.py minatar/cells ppo.csv --csv curves.csv --png curves.png

A source is a folder of a study's cells or a CSV of these rows: the mean return of the episodes that
ended in a twentieth of training. The picture shows the mean of the seeds, and the range of them.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from selftune.core.api import jsonl

COLUMNS = ("environment", "agent", "seed", "env_steps", "mean_return", "episodes")
PARTS = 20


def rows_of(source: Path) -> Iterator[tuple]:
  """Yields the rows of a source."""
  if source.is_file():
    with source.open(encoding="utf-8") as file:
      yield from (tuple(row[name] for name in COLUMNS) for row in csv.DictReader(file))
    return
  for table in sorted(source.glob("*/*/runs.csv")):
    agent, environment = table.parent.parts[-2:]
    with table.open(encoding="utf-8") as file:
      for run in csv.DictReader(file):
        folder = table.parent / "runs" / f"{int(run['run']):03d}"
        episodes = list(jsonl.read(folder / "episodes.jsonl"))
        steps = np.array([episode["env_steps"] for episode in episodes])
        returns = np.array([episode["return"] for episode in episodes])
        ends = np.linspace(0, int(run["env_steps"]), PARTS + 1)
        for low, high in itertools.pairwise(ends):
          chosen = returns[(low < steps) & (steps <= high)]
          mean = f"{chosen.mean():.3f}" if chosen.size else "nan"
          yield environment, agent, run["seed"], round(high), mean, chosen.size


def draw(rows: Sequence[tuple], path: Path) -> None:
  """Draws a panel an environment, a line an agent."""
  environments = list(dict.fromkeys(row[0] for row in rows))
  page = Figure(figsize=(3.4 * len(environments), 3.0), layout="constrained")
  for axes, environment in zip(
    page.subplots(1, len(environments), squeeze=False)[0], environments, strict=True
  ):
    of_it = [row for row in rows if row[0] == environment]
    for agent in dict.fromkeys(row[1] for row in of_it):
      seeds: dict[str, list[tuple[float, float]]] = {}
      for row in of_it:
        if row[1] == agent:
          seeds.setdefault(row[2], []).append((float(row[3]), float(row[4])))
      curves = np.array(list(seeds.values()))  # [seeds, parts, 2]
      x, y = curves[0, :, 0], curves[..., 1]
      (line,) = axes.plot(x, np.nanmean(y, 0), label=agent)
      axes.fill_between(x, np.nanmin(y, 0), np.nanmax(y, 0), color=line.get_color(), alpha=0.2)
    axes.set_title(environment)
    axes.set_xlabel("env steps")
    axes.legend(frameon=False)
  page.axes[0].set_ylabel("mean return")
  page.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("sources", nargs="+", type=Path)
  parser.add_argument("--csv", type=Path)
  parser.add_argument("--png", type=Path)
  args = parser.parse_args()
  rows = [row for source in args.sources for row in rows_of(source)]
  if args.csv:
    with args.csv.open("w", encoding="utf-8", newline="") as file:
      writer = csv.writer(file, lineterminator="\n")
      writer.writerows([COLUMNS, *rows])
  if args.png:
    draw(rows, args.png)
  best = {}
  for environment, agent, seed, _, mean, _ in rows:  # the last row of a seed stands
    best.setdefault((environment, agent), {})[seed] = float(mean)
  for (environment, agent), last in best.items():
    values = np.array(list(last.values()))
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    print(f"{environment:14} {agent:10} {values.mean():7.2f} +- {error:.2f} ({len(values)} seeds)")


if __name__ == "__main__":
  main()
