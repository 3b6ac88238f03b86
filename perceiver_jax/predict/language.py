"""What is missing in a text."""

import re
from typing import NamedTuple

import jax
import numpy as np

from perceiver_jax.modalities.text import BytesTokenizer, TextInput, TextOutput
from perceiver_jax.predict.compiled import compiled
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


def fill_mask(pretrained: Pretrained, text: str) -> FilledText:
  """Fills the masked bytes of a text, each with the most probable byte.

  All are filled at once, each as if the others stayed masked.

  Args:
    pretrained: a masked language model on bytes.
    text: with `[MASK]` in place of each byte that is missing: a letter of ASCII
      is one byte, others are two to four.

  Raises:
    ValueError: the model does something else; the text is empty or too long,
      or nothing in it is masked.
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
  ids = _encoded(text, tokenizer)
  max_length = min(config.inputs.max_length, config.outputs.max_length)
  if len(ids) > max_length:
    raise ValueError(
      f'text must have at most {max_length} bytes, got {len(ids)}.'
    )
  # One shape for all texts, so that the model is compiled once.
  padded = np.full((1, max_length), tokenizer.PAD, np.int32)
  padded[0, : len(ids)] = ids
  apply = compiled(config).apply
  mask = np.arange(max_length)[None] < len(ids)
  weights = pretrained.params, pretrained.state
  logits, _ = apply(*weights, None, padded, input_mask=mask)
  probs = np.asarray(jax.nn.softmax(logits[0, : len(ids)]))
  is_missing = ids == tokenizer.MASK
  # No special token is text.
  best = tokenizer.num_special + probs[:, tokenizer.num_special :].argmax(-1)
  whole = np.where(is_missing, best, ids)
  starts = np.flatnonzero(np.diff(is_missing.astype(int), prepend=0))
  return FilledText(
    tokenizer.decode(whole),
    tuple(
      tokenizer.decode(part)
      for part, missing in zip(
        np.split(whole, starts), np.split(is_missing, starts), strict=True
      )
      if len(missing) and missing[0]
    ),
    tuple(float(probs[i, whole[i]]) for i in np.flatnonzero(is_missing)),
  )


def mask_part(text: str, part: str) -> str:
  """Returns a text with `[MASK]` for each byte of every occurrence of a part.

  Raises:
    ValueError: the text does not contain the part.
  """
  if not part or part not in text:
    raise ValueError(f'the part to mask must be in the text, got {part!r}.')
  return text.replace(part, MASK * len(part.encode('utf-8')))


def _encoded(text: str, tokenizer: BytesTokenizer) -> np.ndarray:
  """Returns ids, with that of the mask for each `[MASK]`."""
  if not text:
    raise ValueError("text must not be empty, got ''.")
  parts = re.split(re.escape(MASK), text)
  if len(parts) == 1:
    raise ValueError(
      f'text must have {MASK} for each byte that is missing, got {text!r}.'
    )
  ids = [tokenizer.encode(parts[0])]
  for part in parts[1:]:
    ids += [np.array([tokenizer.MASK]), tokenizer.encode(part)]
  return np.concatenate(ids)
