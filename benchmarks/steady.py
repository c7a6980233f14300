"""Whether a long run keeps its memory, its speed and its lag: half an hour of Sebulba on Breakout.

  python benchmarks/steady.py [--config experiments/atari_stac] [--minutes 30] [--out steady.png]

Trains by `selftune train`, reads the resident memory of its process every two seconds and, after
the end, what the run logged. Prints both for every five minutes, and over all that comes after the
warm-up the slope of memory (under 1 MB/min wanted), the largest lag between the acting policy and
the learner's, and the speed of the last third over that of the first. Exit code 1 if memory grows
or the lag leaves its bound.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from selftune.core import config
from selftune.core.api import jsonl
from selftune.core.experiment import Sebulba, Train

EVERY = 2.0  # seconds between looks at the memory
PARTS = 300.0  # seconds that a row of the table stands for
SLOPE = 1.0  # MB/min that memory may grow by
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mb(pid: int) -> float:
  """Resident memory of a process, MB (10^6 bytes)."""
  return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * PAGE / 1e6


def watch(command: list[str], seconds: float) -> np.ndarray:
  """Runs a command that long, then has it save and stop; [N, 2] of seconds and MB."""
  began = time.monotonic()
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
  samples = []
  try:
    while (now := time.monotonic() - began) < seconds:
      if process.poll() is not None:
        sys.exit(f"the run ended by itself after {now:.0f} s: see what it says above")
      samples.append((now, resident_mb(process.pid)))
      time.sleep(EVERY)
  finally:
    process.send_signal(signal.SIGTERM)
    process.wait()
  return np.array(samples)


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
  """Least squares, in units of the values a minute."""
  return float(np.polyfit(seconds / 60, values, 1)[0])


def draw(memory: np.ndarray, rows: np.ndarray, out: Path) -> None:
  """Memory above, speed below, against minutes."""
  from matplotlib.figure import Figure

  figure = Figure(figsize=(8, 5), layout="constrained")
  above, below = figure.subplots(2, 1, sharex=True)
  above.plot(memory[:, 0] / 60, memory[:, 1])
  above.set_ylabel("resident memory, MB")
  below.plot(rows[:, 0] / 60, rows[:, 1])
  below.set(ylabel="env steps/s", xlabel="minutes")
  for axes in (above, below):
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
  figure.savefig(out, dpi=120)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="experiments/atari_stac")
  parser.add_argument("--bind", action="append", default=[], help="a gin binding")
  parser.add_argument("--minutes", type=float, default=30.0)
  parser.add_argument("--warm-up", type=float, default=5.0, help="minutes that are left out")
  parser.add_argument("--out", type=Path, help="a PNG of memory and speed against time")
  args = parser.parse_args()
  bindings = [
    *args.bind,
    f"train.total_env_steps = {10**9}",
    "train.log_seconds = 10.0",
    "train.checkpoint_seconds = 60.0",
  ]
  root: Train = config.load(args.config, bindings).root
  if not isinstance(root.runtime, Sebulba):
    parser.error(f"{args.config} does not run on Sebulba: --bind 'train.runtime = @sebulba()'")

  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "selftune", "train", args.config, "--workdir", folder]
    command += [word for binding in bindings for word in ("--bind", binding)]
    memory = watch(command, args.minutes * 60)
    logged = list(jsonl.read(Path(folder) / "metrics.jsonl"))
  # The run's clock starts when it is built, and its last row is written when it stops.
  offset = memory[-1, 0] - logged[-1]["wall_time"]
  rows = np.array(
    [(r["wall_time"] + offset, r["steps_per_second"], r["policy_lag"]) for r in logged]
  )
  print(f"{'minutes':<10}{'MB':>10}{'env steps/s':>14}{'largest lag':>14}")
  for start in np.arange(0, args.minutes * 60, PARTS):
    mine = memory[(memory[:, 0] >= start) & (memory[:, 0] < start + PARTS)]
    its = rows[(rows[:, 0] >= start) & (rows[:, 0] < start + PARTS)]
    minutes = f"{start / 60:.0f}-{(start + PARTS) / 60:.0f}"
    speed, lag = np.median(its[:, 1]), its[:, 2].max()
    print(f"{minutes:<10}{np.median(mine[:, 1]):>10,.1f}{speed:>14,.1f}{lag:>14g}")

  warm = memory[memory[:, 0] >= args.warm_up * 60]
  later = rows[rows[:, 0] >= args.warm_up * 60]
  grows, lag = slope(*warm.T), later[:, 2].max()
  first, last = (np.median(part[:, 1]) for part in np.array_split(later, 3)[::2])
  print(f"memory: {grows:+.3f} MB/min (under {SLOPE:g} wanted)")
  print(f"lag:    {lag:g} at most (bound {root.runtime.lag})")
  print(f"speed:  last third / first third {last / first:.3f}")
  if args.out:
    draw(memory, rows, args.out)
  sys.exit(int(grows >= SLOPE or lag > root.runtime.lag))


if __name__ == "__main__":
  main()
