"""Weights & Biases."""

import dataclasses
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...core.episodes import Episode
from ...core.errors import UserError
from ...core.interfaces import RunInfo
from ...core.registry import register

MODES = ("auto", "online", "offline", "disabled")


@register("writer", "wandb")
@dataclasses.dataclass(frozen=True)
class WandB:
  """Weights & Biases, against env steps; offline without a login (`wandb sync` uploads it later).

  `mode` "auto" follows the variable WANDB_MODE; without it the run is online if there is a login. A
  resumed run goes on under its first id. Trouble with W&B never stops training.
  """

  required: ClassVar[bool] = False
  project: str = "selftune"
  name: str | None = None  # default: the name of the workdir
  group: str | None = None
  tags: tuple[str, ...] = ()
  mode: str = "auto"

  def __post_init__(self) -> None:
    if self.mode not in MODES:
      raise UserError(f"wandb.mode = '{self.mode}': it must be one of {', '.join(MODES)}.")

  def open(self, run: RunInfo) -> "_Run":
    import wandb  # takes a second to import

    mode = self.mode
    if mode == "auto":
      logged_in = "WANDB_MODE" not in os.environ and wandb.login(prompt=False, verify=False)
      mode = os.environ.get("WANDB_MODE") or ("online" if logged_in else "offline")
    run_id = run.ids.setdefault("wandb", secrets.token_hex(4))
    opened = wandb.init(
      project=self.project,
      name=self.name or os.path.basename(os.path.abspath(run.workdir)),
      group=self.group,
      tags=self.tags,
      mode=mode,  # type: ignore[arg-type]
      dir=run.workdir,
      id=run_id,
      resume="allow" if mode == "online" else None,
      reinit="create_new",
      config={k: v if isinstance(v, bool | int | float) else str(v) for k, v in run.config.items()},
      settings=wandb.Settings(console="off", init_timeout=30),  # the progress bar is no log
    )
    # W&B's own step only counts calls: a resumed run may write older env_steps again.
    opened.define_metric("env_steps", hidden=True)
    opened.define_metric("*", step_metric="env_steps")
    return _Run(opened)


class _Run:
  def __init__(self, run: Any) -> None:
    self._run = run

  def write(self, row: Mapping[str, float]) -> None:
    self._run.log(dict(row))

  def write_episodes(self, episodes: Sequence[Episode]) -> None:
    del episodes  # their mean is in the rows

  def close(self) -> None:
    self._run.finish()
