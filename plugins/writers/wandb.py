"""The Weights & Biases writer."""

import dataclasses
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...core.api import Episode, Histogram, RunInfo, register

TIMEOUT = 20.0  # seconds that W&B is given to answer, and at the end to take the rest

_LOG = logging.getLogger(__name__)


@register("writer", "wandb")
@dataclasses.dataclass(frozen=True)
class WandB:
  """Weights & Biases, against env steps; offline without a login (`wandb sync` uploads it later).

  `mode` "auto" follows the variable WANDB_MODE; without it the run is online if there is a login. A
  resumed run goes on under its first id. Trouble with W&B neither stops nor delays training: what
  it does not take in time is dropped, or is in the offline run.
  """

  required: ClassVar[bool] = False
  project: str = "selftune"
  name: str | None = None  # default: the name of the workdir
  group: str | None = None
  tags: tuple[str, ...] = ()
  mode: Literal["auto", "online", "offline", "disabled"] = "auto"

  def open(self, run: RunInfo) -> "_Run":
    """Opens the run at W&B, a resumed one under the id that it has kept.

    Raises:
      Exception: whatever W&B raises, but where it should be online and does not answer.
    """
    # An agent of a W&B sweep has given the run its id and its project.
    agent = "WANDB_SWEEP_ID" in os.environ
    own_id = os.environ.get("WANDB_RUN_ID") if agent else None
    run_id = run.ids.setdefault("wandb", own_id or secrets.token_hex(4))
    mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE") or _default_mode()
    options: dict[str, Any] = dict(
      project=None if agent else self.project,
      name=self.name or os.path.basename(os.path.abspath(run.workdir)),
      group=self.group,
      tags=self.tags,
      dir=run.workdir,
      id=None if agent else run_id,
      reinit="create_new",  # where many runs are one program, each has one that is open
      config={k: v if isinstance(v, bool | int | float) else str(v) for k, v in run.config.items()},
    )
    opened = _init(mode, options)
    # W&B's own step only counts calls: a resumed run may write older env_steps again.
    opened.define_metric("env_steps", hidden=True)
    opened.define_metric("*", step_metric="env_steps")
    return _Run(opened)


def _default_mode() -> str:
  import wandb  # takes a second to import

  return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _init(mode: str, options: dict[str, Any]) -> Any:
  """Opens a run; offline where it should be online and W&B does not answer in time."""
  import wandb

  settings = wandb.Settings(
    console="off",  # the progress bar is no log
    init_timeout=TIMEOUT,
    finish_timeout=TIMEOUT,
    finish_timeout_raises=True,
  )
  try:
    # Offline too: it has `wandb sync` go on with the steps that the server has of the run.
    return wandb.init(mode=mode, resume="allow", settings=settings, **options)  # type: ignore
  except Exception as error:
    if mode != "online":
      raise
    # W&B's process holds on to the id of the run that it could not open.
    own, apart = options["id"], f"{options['id']}-offline"
    reason = str(error).partition("\n")[0]
    _LOG.warning(
      "W&B is not reached (%s), the run is logged offline; upload it by: wandb sync --id %s %s",
      *(reason, own, os.path.join(options["dir"], "wandb", f"offline-run-*-{apart}")),
    )
    return _init("offline", {**options, "id": apart})


class _Run:
  """An open run of W&B."""

  def __init__(self, run: Any) -> None:
    self._run, self._env_steps = run, 0.0

  def write(self, row: Mapping[str, float]) -> None:
    """Logs a row of metrics."""
    self._env_steps = row["env_steps"]
    self._run.log(dict(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    """Logs nothing of single episodes."""
    del episodes  # their mean is in the rows

  def write_evaluation(self, row: Mapping[str, float]) -> None:
    """Logs scores as `eval/<name>`."""
    scores = {f"eval/{key}": value for key, value in row.items() if key != "env_steps"}
    self._run.log({**scores, "env_steps": row["env_steps"]})

  def write_histograms(self, histograms: Mapping[str, Histogram], row: Mapping[str, float]) -> None:
    """Logs histograms by name, counts [N] and edges [N + 1]."""
    import wandb

    drawn = {k: wandb.Histogram(np_histogram=(v.counts, v.edges)) for k, v in histograms.items()}
    self._run.log({**drawn, "env_steps": row["env_steps"]})

  def write_media(self, name: str, path: Path) -> None:
    """Logs a video (MP4) or a picture (any other file) under a metric's name."""
    import wandb

    video = path.suffix == ".mp4"
    media = wandb.Video(str(path), format="mp4") if video else wandb.Image(str(path))
    self._run.log({name: media, "env_steps": self._env_steps})

  def close(self) -> None:
    """Ends the run at W&B; warns, with what to type, if it does not take all rows in time."""
    try:
      self._run.finish()
    except TimeoutError:
      _LOG.warning(
        "W&B did not take all rows within %.0f s; upload them, before the run is resumed, by: "
        "wandb sync --include-online %s",
        *(TIMEOUT, Path(self._run.dir).parent),
      )
