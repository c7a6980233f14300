"""What selftune does on a GPU, in at most eight minutes: one JSON file and one Markdown file.

  pip install -e '.[cuda,test]' && bash benchmarks/gpu.sh [FOLDER]
  bash benchmarks/gpu.sh FOLDER --only flags choices    # these alone; what was measured stays
  bash benchmarks/gpu.sh FOLDER --small                 # tiny sizes on a CPU, to try it

Each part is a process with its own time limit, and what it has measured is written as soon as it
ends: a part that fails, is too slow or needs a package that is missing leaves the numbers of the
others, and those that it had. Parts that eight minutes were not enough for are named: `--only`.

`tests` are those marked `gpu`; `learner` is the update alone; `end_to_end` trains on Breakout;
`minatar`, `snake` and `metatrace` are programs that hold their environment; `flags` are XLA's, and
`choices` what is chosen by the platform, each with the ratio to the same cell of another part.
FOLDER is benchmarks/gpu unless one is given.
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpu_parts import FULL, SMALL, Part, parts

ROOT = Path(__file__).resolve().parents[1]
LEAST = 5.0  # seconds; with less, a part is not begun
SAID = 12  # last lines of a part that failed
RATES = ("env_steps_per_second", "run_steps_per_second")
SIZES = ("runs", "envs", "what")  # what tells the cells of a part from each other
Results = list[dict[str, Any]]  # of parts
DEVICE = (
  "import jax; d = jax.devices(); "
  "print(f'{len(d)} x {d[0].device_kind}|{d[0].platform}|{jax.__version__}')"
)


def run(part: Part, seconds: float, folder: Path) -> dict[str, Any]:
  """Runs a part for at most so many seconds; says what came of it, and its cells."""
  file = folder / f"{part.name.replace('/', '-')}.jsonl"
  file.unlink(missing_ok=True)
  command = [word.replace("{cells}", str(file)) for word in (sys.executable, *part.command[1:])]
  variables = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), **part.variables}
  began = time.monotonic()
  with busy() as samples:
    ended, said = finish(command, variables, seconds, folder / "log.txt")
  cells = [json.loads(line) for line in lines(file)]
  file.unlink(missing_ok=True)
  for cell in cells:
    if window := cell.pop("window", None):
      within = [value for when, value in samples if window[0] <= when <= window[1]]
      if within:
        cell["gpu_percent"] = statistics.mean(within)
  return {
    "part": part.name,
    "command": shlex.join(part.command),
    "variables": dict(part.variables),
    "against": part.against,
    "ended": ended,
    "said": said,
    "seconds": time.monotonic() - began,
    "cells": cells,
  }


def finish(
  command: Sequence[str], variables: Mapping[str, str], seconds: float, log: Path
) -> tuple[str, list[str]]:
  """Runs a command, and all that it starts, to its end or that of the time.

  Returns:
    How it ended, and the last lines that it said.
  """
  with log.open("w+", encoding="utf-8", errors="replace") as out:
    process = subprocess.Popen(
      command,
      cwd=ROOT,
      env={**os.environ, **variables},
      stdin=subprocess.DEVNULL,
      stdout=out,
      stderr=out,
      start_new_session=True,
    )
    try:
      code = process.wait(seconds)
      ended = f"failed with exit code {code}" if code else "done"
    except subprocess.TimeoutExpired:
      ended = f"stopped after {seconds:.0f} s"
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.wait()
    out.seek(0)
    return ended, out.read().strip().splitlines()[-SAID:]


def lines(file: Path) -> list[str]:
  """The whole lines of a file; a process that was stopped may have left a part of one."""
  if not file.exists():
    return []
  return [line for line in file.read_text("utf-8").splitlines(keepends=True) if line[-1] == "\n"]


@contextlib.contextmanager
def busy() -> Iterator[list[tuple[float, float]]]:
  """Times and percents of how busy the GPUs are, by nvidia-smi; none where there is no such."""
  command = "nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -lms 250"
  samples: list[tuple[float, float]] = []
  try:
    process = subprocess.Popen(
      command.split(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
  except OSError:
    yield samples
    return

  def read() -> None:
    for line in process.stdout or ():
      with contextlib.suppress(ValueError):  # it may say that it does not know
        samples.append((time.time(), float(line)))

  reader = threading.Thread(target=read, daemon=True)
  reader.start()
  try:
    yield samples
  finally:
    process.kill()
    process.wait()
    reader.join()


def compared(results: Results) -> None:
  """Gives cells that are compared with another part's their ratio to the like one of that."""
  cells = {result["part"]: result["cells"] for result in results}
  like = lambda cell: tuple(cell.get(size) for size in SIZES)
  for result in results:
    base = {like(cell): cell for cell in cells.get(result["against"], ())}
    for cell in result["cells"]:
      for rate in RATES:
        if rate in cell and rate in base.get(like(cell), ()):
          cell["ratio"] = cell[rate] / base[like(cell)][rate]


def table(cells: Sequence[Mapping[str, Any]]) -> list[str]:
  """Cells as the lines of a Markdown table; what a cell lacks is empty."""
  columns = list(dict.fromkeys(name for cell in cells for name in cell))
  rows = [[shown(cell.get(name, "")) for name in columns] for cell in cells]
  names = [name.replace("_", " ") for name in columns]
  return [f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), *rows)]


def shown(value: Any) -> str:
  if not isinstance(value, float):
    return str(value)
  return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def page(report: Mapping[str, Any]) -> str:
  """The report as Markdown."""
  head = [
    "# selftune on a GPU",
    f"{report['device']}, jax {report['jax']}, {report['date']}: `{report['command']}`",
  ]
  if report["small"]:
    head.append("**Tiny sizes, to try the script: the numbers say nothing of a GPU.**")
  for result in report["parts"]:
    name, told = result["part"], f"{result['ended']}, {result['seconds']:.0f} s"
    variables = "".join(f"{k}='{v}' " for k, v in result["variables"].items())
    against = f"; ratios are to `{result['against']}`" if result["against"] else ""
    head += [f"## {name}", f"`{variables}{result['command']}`: {told}{against}"]
    if result["cells"]:
      head.append("\n".join(table(result["cells"])))
    if result["ended"] != "done" or not result["cells"]:
      head.append("\n".join(["```", *result["said"], "```"]))
  return "\n\n".join(head) + "\n"


def measure(
  every: Sequence[Part], folder: Path, seconds: float, about: Mapping[str, Any], before: Results
) -> None:
  """Runs the parts one after the other, and writes the report after each.

  Args:
    every: the parts.
    folder: for the report.
    seconds: that they may take in all.
    about: what the report begins with.
    before: what was found by parts that are not to run.
  """
  end = time.monotonic() + seconds
  found = {result["part"]: result for result in before}
  for part in every:
    left = end - time.monotonic()
    if left < LEAST:
      print(f"{part.name}: not begun, the time is over; --only {part.name.split('/')[0]}")
      continue
    result = run(part, min(part.seconds, left), folder)
    found[part.name] = result
    results = list(found.values())
    compared(results)
    report = {**about, "parts": results}
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (folder / "gpu.md").write_text(page(report), "utf-8")
    cells, took = len(result["cells"]), result["seconds"]
    print(f"{part.name}: {result['ended']}, {cells} cells, {took:.0f} s", flush=True)
    if result["ended"] != "done":
      print("".join(f"  {line}\n" for line in result["said"]), end="", flush=True)


def measured_before(folder: Path, about: Mapping[str, Any]) -> Results:
  """What the folder's report has of the same device, jax and sizes."""
  file = folder / "gpu.json"
  report = json.loads(file.read_text("utf-8")) if file.exists() else {}
  same = all(report.get(name) == about[name] for name in ("device", "jax", "small"))
  return report["parts"] if same else []


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "benchmarks/gpu")
  parser.add_argument("--only", nargs="+", default=[""], help="parts whose names begin so")
  parser.add_argument("--minutes", type=float, default=8.0, help="that all parts may take")
  parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU")
  args = parser.parse_args()
  if args.small:
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
  folder = args.folder.resolve()  # parts run in the repository
  folder.mkdir(parents=True, exist_ok=True)
  # In a process of its own, too: this one must not hold the GPU's memory.
  said = subprocess.check_output([sys.executable, "-c", DEVICE], encoding="utf-8")
  device, platform, jax = said.splitlines()[-1].split("|")
  if platform == "cpu" and not args.small:
    parser.error("JAX finds no accelerator; --small tries the script on a CPU")
  about = {
    "device": device,
    "jax": jax,
    "date": datetime.date.today().isoformat(),
    "command": shlex.join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
    "small": args.small,
  }
  every = parts(SMALL if args.small else FULL)
  chosen = [part for part in every if part.name.startswith(tuple(args.only))]
  before = [] if args.only == [""] else measured_before(folder, about)
  measure(chosen, folder, 60 * args.minutes, about, before)
  print(args.folder / "gpu.md")


if __name__ == "__main__":
  main()
