"""Every benchmark, one table after another.

  python benchmarks/all.py [--quick]

The update (learner.py), also on simulated devices (devices.py), training on Breakout end to end
beside its parts and raw EnvPool (end_to_end.py), the environment plugins beside EnvPool
(env_throughput.py), the Real-World RL suite beside dm_control (rwrl_throughput.py), and sweeps of
Metatrace, by themselves (metatrace.py) and beside a process a point (sweep.py). About half an hour
on two cores; `--quick` times one update of each only.
"""

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="time each thing once")
  turns, updates = ("1", "1") if parser.parse_args().quick else ("5", "4")
  for script, *arguments in (
    ("learner.py", "--turns", turns),
    ("devices.py", "--turns", turns),
    ("end_to_end.py", "--config", "experiments/atari_impala", "--updates", updates),
    ("env_throughput.py",),
    ("rwrl_throughput.py", "--turns", turns),
    ("metatrace.py",),
    ("sweep.py",),
  ):
    print(f"\n== {script} {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(FOLDER / script), *arguments], check=True)


if __name__ == "__main__":
  main()
