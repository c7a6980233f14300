"""Machine code: what plugins may offer beside JAX, for many small runs on a CPU.

An agent on the device is JAX, and that form is its definition. Of a step as small as that of a
linear agent it leaves the processor mostly idle. Where every plugin that takes part has a form in
C++, they are compiled together, once for a machine, and threads advance one run after another.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .contracts import AgentFns, FunctionalEnvironment, NetworkPlugin
from .online import Ends, RunState

# Those of -ffast-math, but without the ones that give up NaN and infinity: these say that a run
# diverged.
FLAGS = (
  *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-pthread"),
  *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
  *("-fassociative-math", "-freciprocal-math"),
)


class Native(NamedTuple):
  """The form of a plugin in C++, and what it is to be given."""

  header: Path
  type: str  # that the header defines; equal for plugins that differ in `settings` alone
  settings: tuple[float, ...] = ()


@runtime_checkable
class HasNative(Protocol):
  """Optional part of an environment, a network or a tuner; None: not with these settings.

  What the type has is said in those of selftune: `plugins/envs/_cars.h`,
  `plugins/networks/_features.h`, `plugins/tuners/_rules.h` and `_rules_each.h`.
  """

  def native(self) -> Native | None:
    """Returns the form in C++."""
    ...


class Parts(NamedTuple):
  """The plugins of one run, with its settings."""

  metaopt: Any
  network: NetworkPlugin
  env: FunctionalEnvironment


# (states [R, ...], steps, most episodes of a run, most env steps) -> states, ends [R, steps, B].
# The states that it is given stay as they are. None: no limit.
Advance = Callable[[RunState, int, int | None, int | None], tuple[RunState, Ends]]


@runtime_checkable
class AdvancesNatively(Protocol):
  """Optional part of a meta-optimiser: runs as machine code, on a CPU."""

  def natively(self, fns: AgentFns, runs: Sequence[Parts]) -> Advance | str:
    """Returns what advances runs, equal to the JAX form to float tolerance.

    Args:
      fns: the agent, of any run.
      runs: the plugins of each; they differ in settings alone.

    Returns:
      The function; or why there is none, as a sentence.
    """
    ...


def compiler() -> str | None:
  """Finds a C++ compiler: $CXX, or what is usual; None if there is none."""
  wanted = (os.environ.get("CXX"), "c++", "g++", "clang++")
  return next((found for name in wanted if name and (found := shutil.which(name))), None)


def library(source: str, headers: Sequence[Path]) -> ctypes.CDLL | str:
  """Compiles C++ for this machine, or loads what was compiled before.

  Args:
    source: of a translation unit.
    headers: that it depends on; a change of theirs compiles it anew.

  Returns:
    The library; or why there is none, as a sentence.
  """
  found = compiler()
  if found is None:
    return "There is no C++ compiler (set CXX, or install g++ or clang++)."
  parts = (
    source,
    _output(found, "--version").stdout,
    _processor(),
    *FLAGS,
    *(path.read_text("utf-8") for path in headers),
  )
  name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24] + ".so"
  folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "selftune")
  try:
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / name).exists():
      failed = _compile(found, source, folder / name)
      if failed is not None:
        return failed
    return ctypes.CDLL(str(folder / name))
  except RuntimeError:  # of expanduser
    return f"There is no home for {folder}, where what is compiled is kept (set XDG_CACHE_HOME)."
  except OSError as error:
    return f"What is compiled cannot be kept in {folder}: {error}."


def _compile(compiler: str, source: str, target: Path) -> str | None:
  """Compiles to a file, whole or not at all; returns what went wrong."""
  with tempfile.TemporaryDirectory(dir=target.parent) as folder:
    file, out = Path(folder, "main.cc"), Path(folder, "main.so")
    file.write_text(source, "utf-8")
    done = _output(compiler, *FLAGS, "-o", str(out), str(file))
    if done.returncode:
      return f"{compiler} failed: {done.stderr.strip().splitlines()[0] if done.stderr else ''}"
    out.replace(target)
  return None


def _output(*command: str) -> subprocess.CompletedProcess[str]:
  """Runs a compiler, whose messages may be in any language."""
  return subprocess.run(
    command, capture_output=True, encoding="utf-8", errors="replace", check=False
  )


def _processor() -> str:
  """Names what -march=native depends on: homes are shared between machines."""
  try:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "".join(sorted({line for line in lines if line.startswith(wanted)}))
  except OSError:
    return platform.platform() + platform.processor()
