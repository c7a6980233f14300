"""One agent on several hosts of a Ray cluster, a process of `selftune train` on each.

  python train_ray.py 8 8 experiments/atari_stacx --workdir /shared/runs/stacx

The numbers are the hosts, and the GPUs that the process of each takes (0 where there are none); the
rest is what `selftune train` takes. Ctrl-C lets the run save and end; --resume goes on.
"""

import os
import socket
import subprocess
import sys

import ray


@ray.remote(max_concurrency=2)  # `stop` while `train` waits
class Process:
  """One process of the job, on a host that Ray chooses."""

  def address(self) -> str:
    """Where the first process can be found: its host, and a port that is free there."""
    with socket.socket() as s:
      s.bind(("", 0))
      return f"{ray.util.get_node_ip_address()}:{s.getsockname()[1]}"

  def train(self, folder: str, arguments: list[str]) -> int:
    """Trains to the end; returns the exit code."""
    command = [sys.executable, "-m", "selftune", "train", *arguments]
    self.process = subprocess.Popen(command, cwd=folder)
    return self.process.wait()

  def stop(self) -> None:
    """Asks it to save and end."""
    self.process.terminate()


def main() -> None:
  hosts, gpus, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
  ray.init(os.environ.get("RAY_ADDRESS", "auto"))
  processes = [Process.options(num_cpus=1, num_gpus=gpus).remote() for _ in range(hosts)]
  job = ["--coordinator", ray.get(processes[0].address.remote()), "--num-processes", str(hosts)]
  running = [
    process.train.remote(os.getcwd(), [*arguments, *job, "--process-id", str(k)])
    for k, process in enumerate(processes)
  ]
  try:
    codes = ray.get(running)
  except KeyboardInterrupt:
    ray.get(processes[0].stop.remote())  # one that is asked to end asks the others
    codes = ray.get(running)
  sys.exit(max(codes))


if __name__ == "__main__":
  main()
