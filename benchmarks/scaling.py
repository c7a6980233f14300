"""What many GPUs give: a calculation from measured rates, each an argument with its default.

  python benchmarks/scaling.py [--impala 10000] [--envpool 1416] [--table jobs]

Prints the tables of docs/scaling.md: `jobs` of one agent on more and more GPUs, what a `run` costs,
and the `limits` of a GPU's host. Defaults that are measured are of benchmarks/RESULTS.md; IMPALA's
rate on a GPU, memory and network are assumed, until benchmarks/gpu.sh has been run.
"""

import argparse
import math
from typing import NamedTuple

PIXELS = 84 * 84 * 4  # bytes of an observation
FLOAT = 4  # bytes
UNROLL = 20  # env steps of a trajectory
BATCH = 32  # trajectories of an update, the paper's
STEPS = 50_000_000  # of a run: 200 M frames
TASKS, SEEDS = 57, 5
# The paper's minutes of a run (section 9.4): on 8 TPU cores, and on a GPU beside distributed CPUs.
PAPER = {"IMPALA": (70, 105), "STAC": (71, 129), "STACX": (84, 133)}
Row = dict[str, str]  # of a table, by column


class Agent(NamedTuple):
  """What an update takes."""

  name: str
  rate: float  # env steps/s of one GPU
  parameters: int
  reductions: int  # gradients as large as the parameters that are summed over the GPUs


def agents(args: argparse.Namespace) -> list[Agent]:
  """IMPALA, STAC and STACX, whose GPU takes turns in acting and learning."""
  one, three = args.parameters
  rate = lambda update: args.impala / (update + args.acting)  # update: of IMPALA's, how many times
  return [
    Agent("IMPALA", rate(1), one, 1),
    Agent("STAC", rate(args.stac), one, 2),
    Agent("STACX", rate(args.stac * args.stacx), three, 2),
  ]


def reduced(agent: Agent, parties: int) -> float:
  """Bytes that each of so many parties sends for an update, by a ring."""
  return 2 * (parties - 1) / parties * agent.reductions * agent.parameters * FLOAT


def jobs(args: argparse.Namespace) -> list[Row]:
  """One agent on all GPUs, with a batch of 32 trajectories a GPU."""
  rows = []
  for agent in agents(args):
    for hosts, gpus in ((1, 1), (1, 8), (8, 8)):
      batch = hosts * gpus * BATCH
      seconds = BATCH * UNROLL / agent.rate
      inside, between = reduced(agent, gpus), reduced(agent, hosts)
      summing = inside / args.nvlink + between / args.network
      rate = batch * UNROLL / (seconds + summing)
      rows.append(
        {
          "agent": agent.name,
          "hosts x GPUs": f"{hosts} x {gpus}",
          "batch": f"{batch:,}",
          "an update, ms": f"{1e3 * seconds:.0f}",
          "a GPU sends, MB": f"{inside / 1e6:.1f}",
          "a host sends, MB": f"{between / 1e6:.1f}",
          "summing, ms": f"{1e3 * summing:.1f}",
          "env steps/s": f"{rate:,.0f}",
          "updates of a run": f"{STEPS / (batch * UNROLL):,.0f}",
          "hours of a run": f"{STEPS / rate / 3600:.2f}",
        }
      )
  return rows


def run(args: argparse.Namespace) -> list[Row]:
  """57 games x 5 seeds, a run a GPU, beside the paper's."""
  runs, gpus = TASKS * SEEDS, 64
  rows = []
  for agent in agents(args):
    hours = STEPS / agent.rate / 3600
    tpu, gpu = (minutes / 60 for minutes in PAPER[agent.name])
    rows.append(
      {
        "agent": agent.name,
        "GPU-hours of a run": f"{hours:.1f}",
        f"GPU-hours of {runs} runs": f"{runs * hours:,.0f}",
        f"hours on {gpus} GPUs": f"{math.ceil(runs / gpus) * hours:.1f}",
        "paper: hours of a run on 8 TPU cores": f"{tpu:.1f}",
        "paper: on a GPU": f"{gpu:.1f}",
        f"paper: GPU-hours of {runs} runs": f"{runs * gpu:,.0f}",
      }
    )
  return rows


def limits(args: argparse.Namespace) -> list[Row]:
  """What a GPU asks of its host."""
  rows = []
  for agent in agents(args):
    cores = agent.rate / args.envpool
    # To act in, and once more to learn from: a trajectory holds one step more than it has new.
    moved = agent.rate * PIXELS * (1 + (UNROLL + 1) / UNROLL)
    few = min(agent.rate, 4 * args.envpool)
    rows.append(
      {
        "agent": agent.name,
        "cores that step, for a GPU": f"{cores:.1f}",
        "for 8 GPUs": f"{8 * cores:.0f}",
        "to the GPU, MB/s": f"{moved / 1e6:,.0f}",
        "of the bus, %": f"{100 * moved / args.bus:.1f}",
        "env steps/s with 4 cores a GPU": f"{few:,.0f}",
        "the GPU is then busy, %": f"{100 * few / agent.rate:.0f}",
      }
    )
  return rows


TABLES = {"jobs": jobs, "run": run, "limits": limits}


def markdown(rows: list[Row]) -> str:
  """Rows as a Markdown table."""
  names = list(rows[0])
  lines = [names, ["---"] * len(names), *(list(row.values()) for row in rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse(words: list[str] | None = None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  number = lambda name, value, text: parser.add_argument(name, type=float, default=value, help=text)
  number("--envpool", 1416, "measured: env steps/s of Breakout on a core, 0.93 of raw EnvPool's")
  number("--stac", 2.54, "measured on CPUs: an update of STAC over one of IMPALA")
  number("--stacx", 1.02, "measured on CPUs: an update of STACX over one of STAC")
  number("--acting", 1 / 3, "by operation count: acting over an update of IMPALA")
  parser.add_argument(
    "--parameters",
    type=int,
    nargs=2,
    default=[2_085_603, 6_061_321],
    help="counted: with one head and with three, 18 actions",
  )
  number("--impala", 10_000, "assumed: env steps/s of IMPALA's update on a GPU, 32 trajectories")
  number("--nvlink", 300e9, "assumed: bytes/s that a GPU sends within a host")
  number("--network", 25e9, "assumed: bytes/s that a host sends to another")
  number("--bus", 20e9, "assumed: bytes/s from a host to a GPU")
  parser.add_argument("--table", choices=TABLES, help="this one alone")
  return parser.parse_args(words)


def main() -> None:
  args = parse()
  for name in [args.table] if args.table else TABLES:
    print(markdown(TABLES[name](args)), end="\n\n")


if __name__ == "__main__":
  main()
