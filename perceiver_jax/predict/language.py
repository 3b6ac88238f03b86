"""What is missing in a text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from perceiver_jax.modalities.text import BytesTokenizer, TextInput, TextOutput
from perceiver_jax.predict.compiled import compiled, in_batches
from perceiver_jax.weights.native import Pretrained

MASK = '[MASK]'
"""Stands for one missing byte in a text."""


class FilledText(NamedTuple):
  """A text whose masks are filled.

  Attributes:
    text: all of it.
    filled: what stands in place of each run of masks, in order.
    probs: of each byte that was filled in, of a softmax over all tokens.
  """

  text: str
  filled: tuple[str, ...]
  probs: tuple[float, ...]


def fill_mask(
  pretrained: Pretrained, *texts: str, batch_size: int = 8
) -> list[FilledText]:
  """Fills the masked bytes of texts, each with the most probable byte.

  All are filled at once, each as if the others stayed masked.

  Args:
    pretrained: a masked language model on bytes.
    *texts: with `[MASK]` in place of each byte that is missing: a letter of
      ASCII is one byte, others are two to four.
    batch_size: texts that go through the model at once, at most; for another
      number of them it is compiled anew.

  Raises:
    ValueError: the model does something else; there is no text, or one is empty
      or too long, or nothing in it is masked.
    TypeError: a text is no string, such as a list of them.
  """
  config = pretrained.config
  tokenizer = BytesTokenizer()
  is_masked_model = isinstance(config.inputs, TextInput) and isinstance(
    config.outputs, TextOutput
  )
  if not is_masked_model or config.inputs.vocab_size != tokenizer.vocab_size:
    raise ValueError(
      'the model must be a masked language model on the '
      f'{tokenizer.vocab_size} tokens of bytes, got '
      f'{type(config.inputs).__name__} and {type(config.outputs).__name__}.'
    )
  if not texts:
    raise ValueError('texts must be one or more, got none.')
  max_length = min(config.inputs.max_length, config.outputs.max_length)
  # One length for all texts, so that the model is compiled once.
  rows = [_encoded(text, tokenizer, max_length) for text in texts]
  apply = compiled(config).apply

  def probabilities(ids):
    weights = pretrained.params, pretrained.state
    mask = ids != tokenizer.PAD
    logits, _ = apply(*weights, None, jnp.asarray(ids), input_mask=mask)
    return jax.nn.softmax(logits[:, :max_length])

  batch_size = min(batch_size, len(rows))
  probs = in_batches(probabilities, rows, batch_size, unit='texts')
  return [
    _filled(row, row_probs, tokenizer)
    for row, row_probs in zip(rows, probs, strict=True)
  ]


def mask_part(text: str, part: str) -> str:
  """Returns a text with `[MASK]` for each byte of every occurrence of a part.

  Raises:
    ValueError: the text does not contain the part.
  """
  if not part or part not in text:
    raise ValueError(f'the part to mask must be in the text, got {part!r}.')
  return text.replace(part, MASK * len(part.encode('utf-8')))


def _encoded(
  text: str, tokenizer: BytesTokenizer, length: int
) -> Int[np.ndarray, ' M']:
  """Returns ids, padded, with that of the mask for each `[MASK]`."""
  if not isinstance(text, str):
    raise TypeError(
      f'each text must be a str, got {type(text).__name__}; give several as '
      'fill_mask(pretrained, *texts), and decode bytes.'
    )
  if not text:
    raise ValueError("text must not be empty, got ''.")
  parts = text.split(MASK)
  if len(parts) == 1:
    raise ValueError(
      f'text must have {MASK} for each byte that is missing, got {text!r}.'
    )
  ids = [tokenizer.encode(parts[0])]
  for part in parts[1:]:
    ids += [np.array([tokenizer.MASK]), tokenizer.encode(part)]
  joined = np.concatenate(ids)
  if len(joined) > length:
    raise ValueError(
      f'text must have at most {length} bytes, got {len(joined)}.'
    )
  padding = length - len(joined)
  return np.pad(joined, (0, padding), constant_values=tokenizer.PAD)


def _filled(
  ids: Int[np.ndarray, ' M'],
  probs: Float[np.ndarray, 'M V'],
  tokenizer: BytesTokenizer,
) -> FilledText:
  """Puts the most probable bytes in place of masks."""
  is_missing = ids == tokenizer.MASK
  # No special token is text.
  best = tokenizer.num_special + probs[:, tokenizer.num_special :].argmax(-1)
  whole = np.where(is_missing, best, ids)
  # Runs of masks and of other tokens take turns.
  ends = np.flatnonzero(np.diff(is_missing)) + 1
  runs = zip(np.split(whole, ends), np.split(is_missing, ends), strict=True)
  return FilledText(
    tokenizer.decode(whole),
    tuple(tokenizer.decode(run) for run, missing in runs if missing[0]),
    tuple(float(probs[i, whole[i]]) for i in np.flatnonzero(is_missing)),
  )
