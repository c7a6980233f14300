"""A sweep of Metatrace as one program, beside a process for each of its points.

  python benchmarks/sweep.py [--episodes 50] [--workers 2]

Runs the packaged 24-point sweep (alpha_0 x mu, mountain car) both ways by `selftune sweep`, from
the command to its table, and prints the ratio of the wall-clock times: starting Python and
compiling are in them, as they are for whoever waits. W&B is left out.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from selftune.core.sweeps.file import read

WANTED = 5.0  # so many times faster
SWEEP = "sweeps/metatrace_mountain_car"


def seconds(file: Path, out: Path, *arguments: str) -> float:
  """How long the sweep takes."""
  start = time.perf_counter()
  command = [sys.executable, "-m", "selftune", "sweep", str(file), "--out", str(out), *arguments]
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  return time.perf_counter() - start


def returns(out: Path) -> list[float]:
  """The metric of every point, in order of the points."""
  with (out / "sweep.csv").open(encoding="utf-8") as file:
    rows = sorted(csv.DictReader(file), key=lambda row: int(row["point"]))
  return [float(row["episode_return"]) for row in rows]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--episodes", type=int, default=50, help="of every point")
  parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes at a time")
  args = parser.parse_args()
  config = read(SWEEP).config
  config["command"] = [word for word in config["command"] if "wandb" not in word]
  config["command"].append(f"--bind=runs.episodes = {args.episodes}")
  with tempfile.TemporaryDirectory() as folder:
    file, together, apart = (Path(folder, name) for name in ("sweep.yaml", "together", "apart"))
    file.write_text(yaml.safe_dump(config), "utf-8")
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f}")
    one = seconds(file, together)
    print(f"24 points x {args.episodes} episodes as one program: {one:.1f} s", flush=True)
    many = seconds(file, apart, "--launcher", "processes", "--workers", str(args.workers))
    print(f"a process a point, {args.workers} at a time: {many:.1f} s")
    print(f"ratio {many / one:.1f} ({WANTED:.0f} wanted)")
    difference = np.abs(np.subtract(returns(together), returns(apart))).max()
    print(f"greatest difference of a point's mean return: {difference:.3g}")


if __name__ == "__main__":
  main()
