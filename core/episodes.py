"""Finished episodes, and the statistics of the last hundred of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WINDOW = 100  # episodes that `episode_return` is the mean of


class Episode(NamedTuple):
  """One finished episode."""

  env_steps: int  # env steps of the whole run when it ended
  episode_return: float  # sum of raw rewards
  length: int  # transitions
  run: int | None = None  # number of the independent run it is of, where there are several


@dataclasses.dataclass(frozen=True)
class EpisodeStats:
  """Raw returns and lengths of the last `WINDOW` finished episodes; how many finished in all."""

  returns: tuple[float, ...] = ()
  lengths: tuple[int, ...] = ()
  finished: int = 0

  def add(self, episodes: Sequence[Episode]) -> "EpisodeStats":
    """The statistics after these episodes, given in the order in which they finished."""
    returns = (*self.returns, *(float(e.episode_return) for e in episodes))
    lengths = (*self.lengths, *(int(e.length) for e in episodes))
    return EpisodeStats(returns[-WINDOW:], lengths[-WINDOW:], self.finished + len(episodes))

  def summary(self) -> dict[str, float]:
    """Metrics of a row; means are absent, not NaN, before the first episode has finished."""
    if not self.returns:
      return {"episodes": self.finished}
    return {
      "episode_return": sum(self.returns) / len(self.returns),
      "episode_length": sum(self.lengths) / len(self.lengths),
      "episodes": self.finished,
    }

  def to_json(self) -> dict[str, Any]:
    return {
      "returns": list(self.returns),
      "lengths": list(self.lengths),
      "finished": self.finished,
    }

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> "EpisodeStats":
    return cls(tuple(saved["returns"]), tuple(saved["lengths"]), saved["finished"])
