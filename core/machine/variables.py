"""Environment variables of JAX, XLA and Matplotlib, tried before a run depends on what they say.

Imports nothing heavy: every command begins with `try_imports`.
"""

import functools
import importlib
import os
import re
import subprocess
import sys

from ..api.errors import RunError

# Variables that a library reads when it is imported, and then raises ValueError.
READ_AT_IMPORT = {"jax": re.compile("JAX_"), "matplotlib": re.compile("MPLBACKEND$")}

_PROBE = "import jaxlib.xla_client as client; client.make_cpu_client()"  # reads XLA_FLAGS
_PROBE_SECONDS = 60
_XLA_SAYS = re.compile(r"\] ((?:Unknown flag|Couldn't interpret|Could not open).*)")


def try_imports() -> None:
  """Imports the libraries that a variable is set for.

  Raises:
    RunError: one of them does not take what it says.
  """
  for library, read in READ_AT_IMPORT.items():
    given = {name: value for name, value in os.environ.items() if read.match(name)}
    if given:
      try:
        importlib.import_module(library)
      except ValueError as error:
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise RunError(f"{library} does not start with {told}: {_one_line(error)}") from error


def start_jax() -> None:
  """Makes JAX look for its devices.

  Raises:
    RunError: it finds none of those asked for, or XLA_FLAGS holds what XLA does not know.
  """
  import jax

  _try_flags(os.environ.get("XLA_FLAGS", ""))
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # an assertion where jax[cuda] is not installed
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked:
      raise RunError(f"JAX finds no device: {_one_line(error)}") from error
    why = _one_line(error).partition(" (set JAX_")[0] or "JAX was installed without support for it"
    raise RunError(
      f"JAX_PLATFORMS={asked}: {why}. Unset it to take what is there, or write JAX_PLATFORMS=cpu."
    ) from error


@functools.cache
def _try_flags(flags: str) -> None:
  """Tries XLA_FLAGS in a process of their own: XLA ends the one in which it finds a wrong flag."""
  if not flags:
    return
  try:
    probe = subprocess.run(
      # -P: a module of the user's in the current folder is not taken for jaxlib.
      [sys.executable, "-P", "-c", _PROBE],
      env={**os.environ, "XLA_FLAGS": flags},
      stdin=subprocess.DEVNULL,
      capture_output=True,
      encoding="utf-8",
      errors="replace",
      timeout=_PROBE_SECONDS,
    )
  except subprocess.TimeoutExpired:
    return  # a busy machine says nothing of the flags
  said = _XLA_SAYS.search(probe.stderr)
  if probe.returncode and said:
    raise RunError(f"XLA does not start with XLA_FLAGS: {_one_line(said[1])}")


def _one_line(error: object) -> str:
  """Returns the first line of what a library says, and no more than fits."""
  line = str(error).partition("\n")[0].partition("; supported values are")[0]
  return line if len(line) <= 300 else f"{line[:300]}..."
