"""Evaluation beside training: in a thread and a pool of its own, the learner never waits for it.

What acts in training is a copy that no update changes, so the evaluation takes the same by
reference. Rows and videos go to the writers that take them: `eval.jsonl`, W&B.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from ..agent.functions import Functions
from ..api.contracts import EnvPlugin
from ..api.types import ActorParams, Device
from ..engine.actor import Interrupted, Rollout
from ..engine.loop import Progress
from ..engine.single import SingleRun
from ..engine.sources import JOIN, POLL, Published, Source
from ..experiment import Evaluation, Train
from ..machine import hosts
from ..machine.seeding import evaluation_seeds
from ..record.logging import Logger
from ..record.workdir import Workdir
from .playing import play, summary
from .scored import Scored, after
from .video import pool_of

_LOG = logging.getLogger(__name__)


class Subject(NamedTuple):
  """The agent that is evaluated, and the environments that it plays in."""

  env: EnvPlugin
  agent: Functions
  unroll_length: int
  seed: int
  env_seeds: tuple[int, ...]  # one an environment
  videos: Path  # their folder


@contextlib.contextmanager
def evaluated(
  experiment: Train,
  workdir: Workdir,
  run: SingleRun,
  source: Source,
  progress: Progress,
  logger: Logger,
  stopping: Callable[[], bool],
) -> Iterator[Source]:
  """Gives a source that evaluates what is published to it now and then, if the experiment says so.

  At the end the evaluation under way is finished, unless the run is to stop or has failed; what
  is so left out is made up for when the run goes on.

  Args:
    experiment: says when, and how much.
    workdir: of the run; it knows the environments that the agent must not be scored in.
    run: whose agent is evaluated, on the device of its first actor.
    source: of the batches; closed by whoever opened it.
    progress: that training begins at.
    logger: takes a row and a video an evaluation, in the evaluation's thread.
    stopping: says that the run is to stop.

  Raises:
    Exception: whatever the evaluation failed with, from `get` or at the end.
  """
  # One process is enough: what acts is the same in all, and only the first one logs.
  if experiment.evaluation is None or not hosts.is_first():
    yield source
    return
  seeds = evaluation_seeds(experiment.seed, experiment.evaluation.num_envs, workdir.env_seeds())
  what = (experiment.env, run.fns, experiment.unroll_length, experiment.seed, seeds, workdir.videos)
  scored = Scored(workdir.path)
  evaluator = Evaluator(experiment.evaluation, Subject(*what), logger, scored, progress.env_steps)
  try:
    yield _Evaluated(source, evaluator, run.actors[0].device, progress.env_steps)
    # Only if training ended well: what raises skips this, and does not wait for scores.
    evaluator.finish(stopping)
  finally:
    evaluator.close()
  # Nobody asks for a batch any more, so a failure of the last evaluation is raised here.
  evaluator.check()


class _Evaluated:
  """A source that hands on batches, and published parameters to the evaluation as well."""

  def __init__(self, source: Source, evaluator: "Evaluator", device: Device, env_steps: int):
    self.devices = source.devices
    self._source, self._evaluator, self._device = source, evaluator, device
    self._env_steps = env_steps

  def get(self, index: int) -> tuple[Rollout, float]:
    """Returns batch `index`, [T+1, B], of the source; raises what an evaluation failed with."""
    self._evaluator.check()
    rollout, waited = self._source.get(index)
    self._env_steps += rollout.env_steps * hosts.count()
    return rollout, waited

  def publish(self, version: int, params: Published) -> None:
    """Hands parameters to what acts, and those of one device to the evaluation."""
    # First to the actors, which wait for them.
    self._source.publish(version, params)
    self._evaluator.offer(self._env_steps, params[self._device])

  def close(self) -> None:
    """Closes the source."""
    self._source.close()


class _Request(NamedTuple):
  """One evaluation to make."""

  env_steps: int
  skipped: int  # evaluations so far
  params: ActorParams


class Evaluator:
  """The thread that evaluates; but for `_run` and what it calls, methods are of the main thread."""

  def __init__(
    self,
    evaluation: Evaluation,
    subject: Subject,
    logger: Logger,
    scored: Scored,
    env_steps: int,
  ):
    self._evaluation, self._subject, self._logger = evaluation, subject, logger
    self._scored = scored
    # A new run scores the untrained agent first; a resumed one what it was stopped in.
    self._due = scored.due(evaluation.every_env_steps, env_steps, env_steps)
    self._skipped = 0
    self._last: tuple[int, ActorParams] | None = None  # offered, and not taken
    self._failure: BaseException | None = None
    # `_busy` is set before a request is queued and cleared once it is scored: none goes unseen.
    self._stop, self._busy = threading.Event(), threading.Event()
    self._requests: queue.Queue[_Request | None] = queue.Queue()
    # A daemon: an environment that hangs must not keep the process from ending.
    self._thread = threading.Thread(target=self._run, name="evaluation", daemon=True)
    self._thread.start()

  def offer(self, env_steps: int, params: ActorParams) -> None:
    """Starts an evaluation if one is due; skips it if there is one under way.

    Args:
      env_steps: of the run by now.
      params: what acts from now on: parameters, and discounts [P + E + C].
    """
    self._last = env_steps, params  # by reference: what acts is a copy that no update changes
    if env_steps < self._due:
      return
    self._due = after(env_steps, self._evaluation.every_env_steps)
    if self._busy.is_set():
      self._skipped += 1
    else:
      self._start()

  def _start(self) -> None:
    assert self._last is not None
    # None: what is scored now is not scored once more at the end.
    (env_steps, params), self._last = self._last, None
    self._busy.set()
    self._requests.put(_Request(env_steps, self._skipped, params))

  def check(self) -> None:
    """Raises what the thread failed with."""
    if self._failure is not None:
      raise self._failure

  def finish(self, stopping: Callable[[], bool]) -> None:
    """Waits for the evaluation under way; then scores the parameters that training ended with."""
    self._wait(stopping)
    if self._last is not None and self._thread.is_alive() and not stopping():
      self._start()
      self._wait(stopping)

  def _wait(self, stopping: Callable[[], bool]) -> None:
    while self._busy.is_set() and self._thread.is_alive() and not stopping():
      time.sleep(POLL)

  def close(self) -> None:
    """Ends the thread at its next step; one whose environment hangs is left behind."""
    # The first ends a thread that plays, the second one that waits for a request.
    self._stop.set()
    self._requests.put(None)
    self._thread.join(JOIN)
    if self._thread.is_alive():
      _LOG.warning("the evaluation did not end within %.0f s: does it hang?", JOIN)

  def _run(self) -> None:
    try:
      while (request := self._requests.get()) is not None:
        self._evaluate(request)
        self._busy.clear()
    except Interrupted:
      pass
    except BaseException as failure:
      # `_busy` stays set: nobody starts another one, and `_wait` sees that the thread is dead.
      self._failure = failure

  def _evaluate(self, request: _Request) -> None:
    began = time.monotonic()
    subject, evaluation = self._subject, self._evaluation
    video = subject.videos / f"{request.env_steps}.mp4" if evaluation.video else None
    with pool_of(subject.env, subject.env_seeds, video) as (pool, watchers):
      played = play(
        subject.agent,
        request.params,
        pool,
        evaluation.episodes,
        evaluation.max_steps,
        subject.unroll_length,
        jax.random.key(subject.seed),
        evaluation.greedy,
        [self._watch, *watchers],
      )
    # A video takes its time to close: by now the log may be closed, and would drop the scores.
    self._watch()
    if note := played.note(f"evaluation.max_steps = {evaluation.max_steps}"):
      _LOG.warning("of the evaluation at %s env steps, %s.", f"{request.env_steps:,}", note)
    row = {"env_steps": request.env_steps, **summary(subject.env, played)}
    row |= {"seconds": time.monotonic() - began, "skipped": request.skipped}
    self._logger.log_evaluation(row)
    self._logger.flush()
    self._scored.write(request.env_steps, request.env_steps)
    if video:
      self._logger.log_media("eval/video", video)

  def _watch(self, *_) -> None:
    if self._stop.is_set():
      raise Interrupted
