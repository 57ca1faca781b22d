"""A vocabulary for a model that is trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers

from svd.conditioning.tokenizer import END, END_OF_WORD, START, Tokenizer, byte_pair_encoding, symbols
from svd.config import TextEncoderConfig


def train_vocabulary(texts: Iterable[str], config: TextEncoderConfig) -> Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of CLIP's form that is learned from texts: bytes,
    bytes that end a word, as many merges as the text encoder has room for and the texts give, start and end.

    Raises TokenizerError if the text encoder has no room for the bytes.
    """
    single = list(symbols())
    base = [*single, *(symbol + END_OF_WORD for symbol in single)]
    room = max(config.vocabulary - len(base) - 2, 0)
    trained = byte_pair_encoding({token: i for i, token in enumerate([*base, START, END])}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=len(base) + room,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    pairs = json.loads(trained.to_str())["model"]["merges"][:room]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    tokens = [*base, *(merge.replace(" ", "") for merge in merges), START, END]
    return Tokenizer({token: i for i, token in enumerate(tokens)}, merges, config)
