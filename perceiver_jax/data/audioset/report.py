"""What became of every segment of the lists, counted and named."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping

from etils import epath

from perceiver_jax.data.audioset.clips import Remark
from perceiver_jax.data.audioset.shards import Outcome

REPORT_FILE = 'report.json'
UNUSUAL_FILE = 'unusual.csv'

Counts = dict[str, dict[str, int]]


def write_report(
  directory: epath.Path, outcomes: Mapping[str, Iterable[Outcome]]
) -> None:
  """Writes `report.json`, the counts, and `unusual.csv`, the clips behind them.

  Args:
    directory: where to.
    outcomes: of the shards of each split.
  """
  with (directory / UNUSUAL_FILE).open('w') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['split', 'video_id', 'start', 'remarks', 'detail'])
    for split, shards in outcomes.items():
      for shard in shards:
        for clip in shard.unusual:
          remarks = ' '.join(clip.remarks)
          detail = _as_utf8(clip.detail)
          row = [split, clip.video_id, clip.start, remarks, detail]
          writer.writerow(row)
  counts = {split: count(shards) for split, shards in outcomes.items()}
  _write_counts(directory, counts)


def count(shards: Iterable[Outcome]) -> dict[str, int]:
  """Returns how many segments are listed and prepared, and by remark."""
  counts = Counter(listed=0, prepared=0, **{r.value: 0 for r in Remark})
  for shard in shards:
    counts['listed'] += shard.num_segments
    counts['prepared'] += shard.num_examples
    for clip in shard.unusual:
      counts.update(clip.remarks)
  return dict(counts)


def merge_reports(parts: Iterable[epath.Path], directory: epath.Path) -> None:
  """Writes the report of all parts together.

  Args:
    parts: directories of prepared data.
    directory: where to.
  """
  totals: dict[str, Counter[str]] = {}
  lines: list[str] = []
  for part in parts:
    for split, counts in read_report(part).items():
      totals.setdefault(split, Counter()).update(counts)
    head, *rows = (part / UNUSUAL_FILE).read_text().splitlines(keepends=True)
    lines += rows if lines else [head, *rows]
  (directory / UNUSUAL_FILE).write_text(''.join(lines))
  _write_counts(directory, totals)


def read_report(directory: epath.Path) -> Counts:
  """Returns the counts of prepared data, by split."""
  splits = json.loads((directory / REPORT_FILE).read_text())
  # Of reasons that were not told apart when it was written, it has none.
  return {split: count([]) | counts for split, counts in splits.items()}


def summary(counts: Counts) -> str:
  """Returns the counts as lines to show, one for each split."""
  lines = []
  for split, by_name in counts.items():
    groups = [
      ', '.join(
        f'{by_name[remark.value]} {remark.value}'
        for remark in Remark
        if remark.is_left_out is is_left_out
      )
      for is_left_out in (True, False)
    ]
    lines.append(
      f'{split}: prepared {by_name["prepared"]} of {by_name["listed"]} '
      f'(left out: {groups[0]}; kept: {groups[1]})'
    )
  return '\n'.join(lines)


def _as_utf8(text: str) -> str:
  """Returns text in which the name of a file may not be UTF-8, escaped."""
  return text.encode(errors='surrogateescape').decode(errors='backslashreplace')


def _write_counts(
  directory: epath.Path, counts: Mapping[str, Mapping[str, int]]
) -> None:
  text = json.dumps(counts, indent=2)
  (directory / REPORT_FILE).write_text(f'{text}\n')
