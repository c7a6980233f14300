"""What the command line takes, and its help.

Imports nothing heavy: `--help` answers at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..api.errors import UserError
from ..api.ranges import MAX_STEPS

CONFIG_HELP = "a gin file, or the name of a packaged one, such as experiments/catch_stacx"
BIND_HELP = "override one parameter; repeat for more, the last one of a name counts"
TRUST_HELP = "import modules that lie in the workdir itself, where its config.gin names some"
BINDINGS_HELP = "the same, and counts more than --bind; right after CONFIG"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
  """The arguments; `command` is the name of the command.

  Raises:
    UserError: says what is wrong with them.
  """
  arguments, unknown = _parser().parse_known_args(argv)
  if unknown:
    quote = " A binding is one argument: --bind 'train.seed = 1'." if "=" in unknown else ""
    raise UserError(
      f"unrecognized arguments: {' '.join(unknown)}.{quote} "
      f"See 'selftune {arguments.command} --help'."
    )
  if "bindings" in arguments:
    for text in arguments.bindings:
      if "=" not in text:
        raise UserError(f"'{text}' is no NAME=VALUE. A folder for the run is --workdir {text}")
    arguments.bind += arguments.bindings
  return arguments


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one line, like every other mistake."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}. See '{self.prog} --help'.")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="selftune",
    description="Trains reinforcement-learning agents that tune their own hyperparameters.",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="""\
first steps:
  selftune train experiments/catch_stacx        about a minute on two cores
  selftune eval runs/catch_stacx_seed0          score what was trained
  selftune plot runs/catch_stacx_seed0          the return, and every number that tuned itself
  selftune plugins loss                         what losses there are, and what can be set of them

'selftune COMMAND --help' tells more of each.
Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 interrupted (143 by
SIGTERM, 129 by SIGHUP).""",
  )
  commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

  def command(name: str, help: str, examples: str) -> argparse.ArgumentParser:
    added = commands.add_parser(
      name,
      help=help,
      description=f"{help[0].upper()}{help[1:]}.",
      epilog=f"examples:\n{examples}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return added

  it = command(
    "train",
    "train an agent",
    """\
  selftune train experiments/catch_stacx
  selftune train experiments/atari_stacx --bind "atari.game = 'space_invaders'"
  selftune train my.gin --bind 'train.seed = 1' --bind 'entropy.cost = 0.02' --workdir runs/try
  selftune train my.gin train.seed=1 entropy.cost=0.02  the same, as W&B's agents write it
  selftune train my.gin --workdir runs/try --resume     go on from its newest whole checkpoint
  selftune train my.gin --init-from runs/try@1200       begin with the weights of its update 1200
  selftune train my.gin --coordinator host0:1234 --num-processes 2 --process-id 1

Ctrl-C, SIGTERM and SIGHUP save, and end the run with exit code 0;
a second Ctrl-C ends it at once.""",
  )
  _add_config(it)
  it.add_argument(
    "--workdir",
    type=_path,
    metavar="DIR",
    help="where configs, logs, checkpoints and plots go (default: runs/<config>_seed<seed>; under "
    "a W&B agent, runs/<config>_<its run's id>)",
  )
  it.add_argument(
    "--resume",
    action="store_true",
    help="go on with the run in the workdir; it may be given more train.total_env_steps",
  )
  it.add_argument(
    "--init-from",
    type=_filled,
    metavar="PATH[@STEP]",
    help="start with the weights of a checkpoint: of a workdir's newest, or of that update",
  )
  job = it.add_argument_group("one process of a job of several (docs/operations.md)")
  job.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="where the first process listens; 'auto' asks SLURM, Open MPI or Kubernetes for all three",
  )
  job.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
  job.add_argument("--process-id", type=int, metavar="I", help="which this is, from 0")

  it = command(
    "eval",
    "play full episodes with a trained agent and print one line of JSON",
    """\
  selftune eval runs/catch_stacx_seed0
  selftune eval runs/catch_stacx_seed0 --episodes 1000 --greedy --seed 7
  selftune eval runs/catch_stacx_seed0@300              the checkpoint of update 300
  selftune eval runs/pong_stacx --episodes 1 --video pong.mp4

Environments have seeds that the run has not seen. Mean, std, min and max are of the raw return of
an episode; normalized is the mean by published scores, where there are any: in Atari 0 is random
play and 1 the human tester. An episode that has not ended after --max-steps is cut and counted as
such. Progress goes to stderr. A video shows the first episode of the first environment, of Atari,
DM Control, classic control and Catch; it needs pip install 'selftune[video]'.""",
  )
  it.add_argument(
    "workdir",
    type=_filled,
    metavar="WORKDIR[@STEP]",
    help="of a run, finished or not; or one of its checkpoints (default: the newest whole one)",
  )
  it.add_argument("--episodes", type=int, default=100, metavar="N", help="default: 100")
  it.add_argument(
    "--greedy", action="store_true", help="take the policy's mode (default: sample, as in training)"
  )
  it.add_argument(
    "--seed", type=int, default=0, metavar="S", help="of environments and actions (default: 0)"
  )
  it.add_argument(
    "--max-steps",
    type=int,
    default=MAX_STEPS,
    metavar="N",
    help=f"cut an episode that has not ended after so many (default: {MAX_STEPS})",
  )
  it.add_argument("--video", type=_path, metavar="FILE.mp4", help="record an episode")
  it.add_argument("--trust", action="store_true", help=TRUST_HELP)

  it = command(
    "plot",
    "draw the return and every self-tuned number against env steps",
    """\
  selftune plot runs/catch_stacx_seed0
  selftune plot runs/stacx_seed* runs/impala_seed* --out compare.png     seeds are averaged""",
  )
  it.add_argument("workdirs", type=_path, nargs="+", metavar="WORKDIR", help="of a run")
  it.add_argument(
    "--out",
    type=_path,
    metavar="FILE",
    help="the PNG (default: WORKDIR/curves.png for one run, ./curves.png for several)",
  )

  it = command(
    "report",
    "compare agents over tasks and seeds, with intervals, as PNGs and one HTML page",
    """\
  selftune report runs/stacx_* runs/impala_*                 in ./report
  selftune report runs/* --out pong --at 1000000             as they were after a million env steps
  selftune report runs/* --evaluations                       scores of eval.jsonl

Runs are of one agent if their configurations differ in the seed and the environment alone; each
environment is a task, and every agent needs as many runs on each. Agents are named by what the
names of their workdirs have in common. Scores are normalised: by random policy and human in Atari,
by the greatest return in DM Control and Real-World RL; any other task must be alone, and is raw.
A score is the mean return of the last 100 episodes of training, or of those of an evaluation,
interpolated between two rows of the log.

Median, interquartile mean, mean and optimality gap, performance profiles, probability of
improvement and sample efficiency are rliable's: pip install 'selftune[report]'.""",
  )
  it.add_argument("workdirs", type=_path, nargs="+", metavar="WORKDIR", help="of a run")
  it.add_argument(
    "--out", type=_path, metavar="DIR", default=Path("report"), help="default: ./report"
  )
  it.add_argument(
    "--at", type=_steps, metavar="STEPS", help="env steps (default: train.total_env_steps)"
  )
  it.add_argument(
    "--evaluations", action="store_true", help="scores of eval.jsonl (default: of training)"
  )
  it.add_argument(
    "--resamples", type=int, default=2000, metavar="N", help="of the bootstrap (default: 2000)"
  )
  it.add_argument("--trust", action="store_true", help=TRUST_HELP)

  it = command(
    "reproduce",
    "train the grid of a paper's figure and draw it, with its table and claims",
    """\
  selftune reproduce                            lists the figures, what each takes, on what
  selftune reproduce metatrace/fig2 --quick     minutes: a few settings, few episodes
  selftune reproduce metatrace/fig2

Stopped or killed, the same command goes on where it was. Figures share cells of their grids.""",
  )
  it.add_argument(
    "figure",
    nargs="?",
    metavar="PAPER/FIGURE",
    help="such as metatrace/fig2 (default: list all, train none)",
  )
  it.add_argument("--quick", action="store_true", help="a small form of the same")
  it.add_argument(
    "--out",
    type=_path,
    metavar="DIR",
    default=Path("runs", "reproduce"),
    help="default: runs/reproduce",
  )

  it = command(
    "sweep",
    "train every point of a W&B sweep file here, without an account; table and plot at the end",
    """\
  selftune sweep sweeps/metatrace_mountain_car              24 points as one compiled program
  selftune sweep sweeps/catch_stac_discount --workers 2     two processes at a time
  selftune sweep my.yaml --launcher ray                     a Ray task a point

The file is an ordinary W&B sweep: parameters are gin bindings, the command calls selftune train.
  method: grid                       # or random, bayes: these two also need run_cap: N
  metric: {name: episode_return, goal: maximize}
  parameters:
    entropy.cost: {values: [0.001, 0.01]}
    train.seed: {values: [0, 1, 2]}
    agent.metaopt: {value: '@fixed()'}            # as gin writes it: a string has quotes of its own
  command: [selftune, train, experiments/catch_stacx, '${args_no_hyphens}']
The same file works unchanged with 'wandb sweep my.yaml' and 'wandb agent ID' (needs an account).
${envvar:NAME} in the command is a variable of the environment.

Stopped or killed, the same command goes on. Exit code 1 if a point failed (the others run on), or
if it was stopped.""",
  )
  it.add_argument("sweep", metavar="SWEEP", help="a YAML file, or the name of a packaged one")
  it.add_argument(
    "--out", type=_path, metavar="DIR", help="default: runs/sweeps/<name of the file>"
  )
  it.add_argument(
    "--workers",
    type=int,
    metavar="N",
    help="points at a time (default: 1; with Ray, as many as its machines hold)",
  )
  it.add_argument(
    "--launcher",
    choices=("auto", "processes", "ray"),
    default="auto",
    help="auto: one program for all points where only numbers and seeds vary, else processes",
  )

  it = command(
    "plugins",
    "list what an agent can be made of, and what of it can be self-tuned",
    """\
  selftune plugins                              each plugin, and what of it is tunable
  selftune plugins corrector                    those of a kind, with every setting
  selftune plugins part                         what else a configuration has: train, agent, ...
  selftune plugins --json""",
  )
  it.add_argument("kind", nargs="?", metavar="KIND", help="env, network, corrector, loss, ...")
  it.add_argument("--json", action="store_true", help="one line of JSON")

  it = command(
    "config",
    "check a configuration and print it with every default, without training",
    """\
  selftune config experiments/catch_stacx
  selftune config experiments/catch_stacx --bind 'agent.heads = 1' > mine.gin""",
  )
  _add_config(it)
  return parser


def _path(text: str) -> Path:
  """A file or folder."""
  return Path(_filled(text))


def _filled(text: str) -> str:
  """A text that is not empty: an empty path, of a shell's unset variable, is the current folder."""
  if not text:
    raise argparse.ArgumentTypeError("it is empty: write ./ for the current folder")
  return text


def _steps(text: str) -> int:
  """A number of steps; 1e6 is one, too."""
  try:
    return int(float(text))
  except (ValueError, OverflowError):
    raise argparse.ArgumentTypeError(f"'{text}' is no number of env steps, as 1e6 is") from None


def _add_config(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
  parser.add_argument("bindings", nargs="*", default=[], metavar="NAME=VALUE", help=BINDINGS_HELP)
  parser.add_argument(
    "--bind", action="append", default=[], metavar="'NAME.FIELD = VALUE'", help=BIND_HELP
  )
