"""What became of every segment of the lists, counted and named."""

import csv
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping

from perceiver_jax.data.audioset.clips import Remark
from perceiver_jax.data.audioset.shards import Outcome

REPORT_FILE = 'report.json'
UNUSUAL_FILE = 'unusual.csv'

Counts = dict[str, dict[str, int]]


def write_report(
  directory: pathlib.Path, outcomes: Mapping[str, Iterable[Outcome]]
) -> None:
  """Writes `report.json`, the counts, and `unusual.csv`, the clips behind them.

  Args:
    directory: where to.
    outcomes: of the shards of each split.
  """
  with (directory / UNUSUAL_FILE).open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['split', 'video_id', 'start', 'remarks', 'detail'])
    for split, shards in outcomes.items():
      for shard in shards:
        for clip in shard.unusual:
          remarks = ' '.join(clip.remarks)
          row = [split, clip.video_id, clip.start, remarks, clip.detail]
          writer.writerow(row)
  counts = {split: count(shards) for split, shards in outcomes.items()}
  text = json.dumps(counts, indent=2)
  (directory / REPORT_FILE).write_text(f'{text}\n')


def count(shards: Iterable[Outcome]) -> dict[str, int]:
  """Returns how many segments are listed and prepared, and by remark."""
  counts = Counter(listed=0, prepared=0, **{r.value: 0 for r in Remark})
  for shard in shards:
    counts['listed'] += shard.num_segments
    counts['prepared'] += shard.num_examples
    for clip in shard.unusual:
      counts.update(clip.remarks)
  return dict(counts)


def read_report(directory: pathlib.Path) -> Counts:
  """Returns the counts of prepared data, by split."""
  return json.loads((directory / REPORT_FILE).read_text())


def summary(counts: Counts) -> str:
  """Returns the counts as lines to show, one for each split."""
  lines = []
  for split, by_remark in counts.items():
    left_out = [r for r in Remark if r.is_left_out]
    kept = [r for r in Remark if not r.is_left_out]
    parts = []
    for title, remarks in (('left out', left_out), ('among them', kept)):
      named = [f'{by_remark[r.value]} {r.value}' for r in remarks]
      parts.append(f'{title}: {", ".join(named)}')
    total = f'{by_remark["prepared"]} of {by_remark["listed"]} prepared'
    lines.append(f'{split}: {total}; {parts[1]}; {parts[0]}')
  return '\n'.join(lines)
