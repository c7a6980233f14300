"""Environment variables that libraries do not take: one message each, and exit code 1."""

import os
import subprocess
import sys

import jax
import pytest

from selftune.core.api.errors import RunError
from selftune.core.machine import variables

CONFIG = ["config", "experiments/catch_stacx"]


@pytest.mark.parametrize(
  "given, command, words",
  [
    (
      "JAX_PLATFORMS=nonsense",
      CONFIG,
      "Unset it to take what is there, or write JAX_PLATFORMS=cpu",
    ),
    (
      "JAX_ENABLE_X64=maybe",
      ["plugins"],
      "jax does not start with JAX_ENABLE_X64='maybe': invalid",
    ),
    ("MPLBACKEND=nonsense", ["plot", "x"], "matplotlib does not start with MPLBACKEND='nonsense'"),
    ("XLA_FLAGS=--nonsense", CONFIG, "XLA_FLAGS: Unknown flag in XLA_FLAGS: --nonsense"),
  ],
)
def test_a_variable_that_is_not_taken(given, command, words):
  name, _, value = given.partition("=")
  done = subprocess.run(
    [sys.executable, "-m", "selftune", *command],
    env={**os.environ, name: value},
    capture_output=True,
    encoding="utf-8",
    timeout=120,
  )
  assert done.returncode == 1 and done.stdout == ""
  assert done.stderr.startswith("selftune: ") and done.stderr.count("\n") == 1, done.stderr
  assert words in done.stderr


def test_an_accelerator_that_is_not_there(monkeypatch):
  def devices():
    raise AssertionError  # as JAX does for cuda where it was installed without

  monkeypatch.setattr(jax, "devices", devices)
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  with pytest.raises(RunError) as caught:
    variables.start_jax()
  assert str(caught.value) == (
    "JAX_PLATFORMS=cuda: JAX was installed without support for it. Unset it to take what is there, "
    "or write JAX_PLATFORMS=cpu."
  )


@pytest.mark.parametrize(
  "flags, words",
  [
    ("nonsense", 'Could not open file "nonsense"'),
    ("--xla_force_host_platform_device_count=x", "Couldn't interpret value x for flag xla_force_"),
    ("--xla_cpu_multi_thread_eigen=false --xla_no_such=1", "Unknown flag in XLA_FLAGS: --xla_no_"),
  ],
)
def test_flags_of_xla(flags, words):
  with pytest.raises(RunError) as caught:
    variables._try_flags(flags)
  assert words in str(caught.value) and "\n" not in str(caught.value)
  variables._try_flags("--xla_force_host_platform_device_count=2")
