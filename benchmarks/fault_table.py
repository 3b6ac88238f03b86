"""What was tried, what came of it, and whether anything was lost."""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Trial(NamedTuple):
  """One fault and its consequences.

  Attributes:
    seen: what happened, in words that are counted over trials.
    lost: what should not have happened; empty if nothing was lost.
  """

  seen: Sequence[str]
  lost: Sequence[str] = ()


def tried(trial: Callable[..., Trial], *arguments: Any) -> Trial:
  """Returns what a trial came to; a run that hangs in it is a loss."""
  try:
    return trial(*arguments)
  except TimeoutError as error:
    return Trial(['hung'], [str(error)])


class Row(NamedTuple):
  """Some trials of a fault.

  Attributes:
    fault: in words.
    trials: each.
    why_not: why there are none.
  """

  fault: str
  trials: Sequence[Trial]
  why_not: str = ''

  @property
  def num_kept(self) -> int:
    """In how many trials nothing was lost."""
    return sum(not trial.lost for trial in self.trials)

  @property
  def outcome(self) -> str:
    """What happened how often; without a number: each time."""
    counts = collections.Counter(
      word for trial in self.trials for word in trial.seen
    )
    if not self.trials:
      return f'not tried: {self.why_not}'
    return '; '.join(
      word if count == len(self.trials) else f'{count} {word}'
      for word, count in sorted(counts.items(), key=lambda item: -item[1])
    )

  def as_json(self) -> dict[str, Any]:
    """Returns the row with each of its trials."""
    return {
      'fault': self.fault,
      'tried': len(self.trials),
      'nothing_lost': self.num_kept,
      'outcome': self.outcome,
      'trials': [trial._asdict() for trial in self.trials],
    }


def table(rows: Sequence[Row]) -> str:
  """Returns the rows as Markdown."""
  lines = [
    '| fault | tried | what happened | nothing lost |',
    '|---|---|---|---|',
  ]
  for row in rows:
    lines.append(
      f'| {row.fault} | {len(row.trials)} | {row.outcome} | {row.num_kept} of '
      f'{len(row.trials)} |'
    )
  return '\n'.join(lines)
