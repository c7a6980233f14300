"""The command line: `selftune train`, `eval`, `plot`, `plugins`, `config`.

Everything heavy is imported by the command that needs it, so that `--help` answers at once.
"""

import argparse
import contextlib
import datetime
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .errors import NonFiniteError, UserError, did_you_mean

OK, FAILED, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130

CONFIG_HELP = "a gin file, or the name of a packaged one, such as experiments/catch_stacx"
BIND_HELP = "override one parameter; repeat for more, the last one of a name counts"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns its exit code: 0, 1 if the run failed, 2 for a user's mistake.

  Whatever else is raised is a bug and keeps its traceback.
  """
  try:
    with _warnings_shown():
      arguments = _parser().parse_args(argv)
      return arguments.run(arguments)
  except UserError as error:
    return _fail(str(error), USER_MISTAKE)
  except NonFiniteError as error:
    return _fail(str(error), FAILED)
  except KeyboardInterrupt:
    return _fail("interrupted.", INTERRUPTED)


def _train(arguments: argparse.Namespace) -> int:
  from . import config, experiment

  root: experiment.Train = config.load(arguments.config, arguments.bind).root
  name = Path(arguments.config).name.removesuffix(".gin")
  workdir = arguments.workdir or Path("runs", f"{name}_seed{root.seed}")
  progress = experiment.train(arguments.config, arguments.bind, workdir, arguments.resume)
  if progress.updates < root.total_updates:
    again = ["selftune", "train", arguments.config, *(f"--bind={b}" for b in arguments.bind)]
    command = shlex.join([*again, "--workdir", str(workdir), "--resume"])
    print(f"Stopped after {progress.env_steps:,} env steps. Resume with:\n  {command}")
    return OK
  episodes = progress.episodes
  took = datetime.timedelta(seconds=round(progress.wall_time))
  print(f"Trained {progress.env_steps:,} env steps in {took}.")
  if episodes.returns:
    final = episodes.summary()["episode_return"]
    print(f"Mean return of the last {len(episodes.returns)} episodes: {final:.4g}")
  else:
    print("No episode has finished yet: give it more train.total_env_steps.")
  print(
    f"Everything is in {workdir}\n"
    f"  draw the curves: {shlex.join(['selftune', 'plot', str(workdir)])}\n"
    f"  score the agent: {shlex.join(['selftune', 'eval', str(workdir)])}"
  )
  return OK


def _eval(arguments: argparse.Namespace) -> int:
  from .evaluate import evaluate

  result = evaluate(arguments.workdir, arguments.episodes, arguments.greedy, arguments.seed)
  print(json.dumps(result))
  return OK


def _plot(arguments: argparse.Namespace) -> int:
  from .plotting import plot

  alone = len(arguments.workdirs) == 1
  out = arguments.out or (arguments.workdirs[0] if alone else Path()) / "curves.png"
  if out.suffix != ".png":
    raise UserError(f"--out {out}: the plot is a PNG; write {out.with_suffix('.png')}.")
  print(plot(arguments.workdirs, out))
  return OK


def _plugins(arguments: argparse.Namespace) -> int:
  from . import registry

  if arguments.kind not in (None, *registry.KINDS):
    hint = did_you_mean(arguments.kind, registry.KINDS)
    raise UserError(
      f"there is no kind of plugin '{arguments.kind}'.{hint} Kinds: {', '.join(registry.KINDS)}."
    )
  registry.load_all()
  kinds = {
    kind: [_described(name, cls) for name, cls in classes.items()]
    for kind, classes in registry.plugins().items()
    if arguments.kind in (None, kind)
  }
  unavailable = registry.unavailable()
  if arguments.json:
    print(json.dumps({"plugins": kinds, "unavailable": unavailable}, ensure_ascii=False))
    return OK
  for kind, found in kinds.items():
    print(f"{kind}:{'' if found else ' none'}")
    for plugin in found:
      print(f"  @{plugin['name']}(): {plugin['doc']}")
      for t in plugin["tunables"]:
        symbol = f" ({t['symbol']})" if t["symbol"] else ""
        print(f"    tunable {t['name']}{symbol}: {t['domain']}, default {t['default']}")
  for module, why in unavailable.items():
    print(f"unavailable: {module}: {why}")
  return OK


def _described(name: str, cls: type) -> dict[str, Any]:
  """What is shown of one plugin."""
  from .tunables import declared

  return {
    "name": name,
    "doc": (cls.__doc__ or "").strip().partition("\n")[0],
    "tunables": [
      {"name": t.name, "symbol": t.symbol, "domain": t.domain.name, "default": t.value}
      for t in declared(name, cls)
    ],
  }


def _config(arguments: argparse.Namespace) -> int:
  from . import config, experiment

  del experiment  # imported for what it registers: train
  print(config.load(arguments.config, arguments.bind).operative, end="")
  return OK


class _Parser(argparse.ArgumentParser):
  """Says what is wrong in one line, like every other mistake."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{message}. See '{self.prog} --help'.")


class _OneLine(logging.Handler):
  """Shows a log record as one line on stderr, whatever stderr is by then."""

  def emit(self, record: logging.LogRecord) -> None:
    _say(record.getMessage().replace("\n", " "))


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
  """Within it, what selftune logs is shown."""
  logger, handler = logging.getLogger(__package__), _OneLine(logging.WARNING)
  logger.addHandler(handler)
  try:
    yield
  finally:
    logger.removeHandler(handler)


def _say(message: str) -> None:
  print(f"selftune: {message}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
  _say(message)
  return code


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
  selftune plugins loss                         what losses there are, and what of them is tunable

'selftune COMMAND --help' tells more of each.
Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 interrupted.""",
  )
  commands = parser.add_subparsers(required=True, metavar="COMMAND")

  def command(run, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    added = commands.add_parser(
      name,
      help=help,
      description=f"{help[0].upper()}{help[1:]}.",
      epilog=f"examples:\n{examples}",
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(run=run)
    return added

  it = command(
    _train,
    "train",
    "train an agent",
    """\
  selftune train experiments/catch_stacx
  selftune train experiments/atari_stacx --bind "atari.game = 'space_invaders'"
  selftune train my.gin --bind 'train.seed = 1' --bind 'entropy.cost = 0.02' --workdir runs/try
  selftune train my.gin --workdir runs/try --resume     go on from its newest whole checkpoint

Ctrl-C and SIGTERM save, and end the run with exit code 0.""",
  )
  _add_config(it)
  it.add_argument(
    "--workdir",
    type=Path,
    metavar="DIR",
    help="where configs, logs, checkpoints and plots go (default: runs/<config>_seed<seed>)",
  )
  it.add_argument(
    "--resume",
    action="store_true",
    help="go on with the run in the workdir; it may be given more train.total_env_steps",
  )

  it = command(
    _eval,
    "eval",
    "play full episodes with a trained agent and print one line of JSON",
    """\
  selftune eval runs/catch_stacx_seed0
  selftune eval runs/catch_stacx_seed0 --episodes 1000 --greedy --seed 7

Environments have seeds that the run has not seen. Mean, std, min and max are of the raw return of
an episode; human_normalized is there for Atari. Progress goes to stderr.""",
  )
  it.add_argument("workdir", type=Path, metavar="WORKDIR", help="of a run, finished or not")
  it.add_argument("--episodes", type=int, default=100, metavar="N", help="default: 100")
  it.add_argument(
    "--greedy", action="store_true", help="take the policy's mode (default: sample, as in training)"
  )
  it.add_argument(
    "--seed", type=int, default=0, metavar="S", help="of environments and actions (default: 0)"
  )

  it = command(
    _plot,
    "plot",
    "draw the return and every self-tuned number against env steps",
    """\
  selftune plot runs/catch_stacx_seed0
  selftune plot runs/stacx_seed* runs/impala_seed* --out compare.png     seeds are averaged""",
  )
  it.add_argument("workdirs", type=Path, nargs="+", metavar="WORKDIR", help="of a run")
  it.add_argument(
    "--out",
    type=Path,
    metavar="FILE",
    help="the PNG (default: WORKDIR/curves.png for one run, ./curves.png for several)",
  )

  it = command(
    _plugins,
    "plugins",
    "list what an agent can be made of, and what of it can be self-tuned",
    """\
  selftune plugins
  selftune plugins corrector
  selftune plugins --json""",
  )
  it.add_argument("kind", nargs="?", metavar="KIND", help="env, network, corrector, loss, ...")
  it.add_argument("--json", action="store_true", help="one line of JSON")

  it = command(
    _config,
    "config",
    "check a configuration and print it with every default, without training",
    """\
  selftune config experiments/catch_stacx
  selftune config experiments/catch_stacx --bind 'agent.heads = 1' > mine.gin""",
  )
  _add_config(it)
  return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("config", metavar="CONFIG", help=CONFIG_HELP)
  parser.add_argument(
    "--bind", action="append", default=[], metavar="'NAME.FIELD = VALUE'", help=BIND_HELP
  )
