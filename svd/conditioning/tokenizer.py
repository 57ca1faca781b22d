"""CLIP's tokenizer: byte-pair encoding, with the vocabulary of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from svd.checkpoints.formats import TOKENIZER
from svd.config import TextEncoderConfig
from svd.errors import UserError, check
from svd.records import RecordError, parse_json

START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a text is split into: words, digits one at a time, and punctuation."""
PUBLISHED = 49408
"""Tokens of the vocabulary that all published towers have."""
LONGEST_QUOTE = 60
"""Characters of a prompt that a warning quotes."""


class TokenizerError(UserError, ValueError):
    """A vocabulary that is not CLIP's, or is damaged."""


class PromptError(UserError, ValueError):
    """A prompt that is no text."""


class Tokenizer:
    """Prompts -> tokens (CLIP, arXiv 2103.00020, section 2.4).

    Texts are normalised (Unicode's NFC, white space, lower case), split into pieces, and the bytes of each are merged,
    as transformers' CLIPTokenizer does. Only its pipelines of Stable Diffusion 2 differ: they read a "!" in a prompt as
    padding, which has the same token 0; here it is a character, as in training (huggingface/diffusers, issue 4153).

    Args:
        vocabulary: ids by token, as in vocab.json.
        merges: pairs of tokens with a space in between, as the lines of merges.txt after its first.
        config: how many tokens a prompt has, and what it is padded with.

    Raises:
        TokenizerError: the vocabulary is not CLIP's, is damaged, or has more tokens than the text encoder.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[str], config: TextEncoderConfig):
        _check_vocabulary(vocabulary, config.vocabulary)
        pairs = _pairs(vocabulary, merges)
        self._vocabulary, self._merges, self._length = dict(vocabulary), list(merges), config.tokens
        self._start, self._end = vocabulary[START], vocabulary[END]
        self._padding = self._end if config.padding == "end" else 0
        self._tokenizer = byte_pair_encoding(self._vocabulary, pairs)

    def __call__(self, prompts: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Tokens, int32 [b n] from start to end and padded; and a warning for every prompt that is too long.

        Raises:
            PromptError: a prompt is not a string, or not UTF-8.
        """
        for prompt in prompts:
            _check_prompt(prompt)
        most = self._length - 2
        tokens = np.full((len(prompts), self._length), self._padding, np.int32)
        encoded = self._tokenizer.encode_batch(list(prompts), add_special_tokens=False)
        for row, encoding in zip(tokens, encoded):
            ids = [self._start, *encoding.ids[:most], self._end]
            row[: len(ids)] = ids
        too_long = [(prompt, encoding) for prompt, encoding in zip(prompts, encoded) if len(encoding.ids) > most]
        return tokens, [
            f"a prompt of {len(encoding.ids)} tokens is cut after {most}: "
            f'"{_quote(prompt[encoding.offsets[most][0] :])}" is left out'
            for prompt, encoding in too_long
        ]

    def to_metadata(self) -> str:
        """The vocabulary and its merges as JSON, for the metadata of a checkpoint."""
        return json.dumps({"vocab": self._vocabulary, "merges": self._merges}, ensure_ascii=False)

    @classmethod
    def of_checkpoint(cls, metadata: Mapping[str, str], config: TextEncoderConfig) -> Tokenizer:
        """The tokenizer in the metadata of a checkpoint; raises TokenizerError, also if there is none."""
        missing = "the checkpoint has no tokenizer, which turns prompts into tokens: convert it again, with one"
        check(TOKENIZER in metadata, missing, TokenizerError)
        return cls.from_metadata(metadata[TOKENIZER], config)

    @classmethod
    def from_metadata(cls, text: str, config: TextEncoderConfig) -> Tokenizer:
        """The inverse of `to_metadata`; raises TokenizerError."""
        try:
            data = parse_json(text, "the tokenizer of the checkpoint")
        except RecordError as error:
            raise TokenizerError(str(error)) from error
        complete = isinstance(data, dict) and {"vocab", "merges"} <= data.keys()
        check(complete, "the tokenizer of the checkpoint has no vocab and merges", TokenizerError)
        return cls(data["vocab"], data["merges"], config)


def byte_pair_encoding(vocabulary: dict[str, int], pairs: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The package's tokenizer with CLIP's normalisation and pieces, without start, end and padding."""
    bpe = models.BPE(vocabulary, pairs, unk_token=END, continuing_subword_prefix="", end_of_word_suffix=END_OF_WORD)
    tokenizer = tokenizers.Tokenizer(bpe)
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (START, END)])
    return tokenizer


def _check_vocabulary(vocabulary: Mapping[str, int], most: int) -> None:
    typed = isinstance(vocabulary, Mapping) and all(
        isinstance(token, str) and type(i) is int for token, i in vocabulary.items()
    )
    check(typed, "the vocabulary has to be a mapping of tokens to integers: it is damaged", TokenizerError)
    for token in (START, END):
        check(token in vocabulary, f"the vocabulary is not that of CLIP: it has no token {token}", TokenizerError)
    ids = sorted(vocabulary.values())
    check(len(set(ids)) == len(ids), "the vocabulary has an id twice: it is damaged", TokenizerError)
    check(
        ids[0] >= 0 and ids[-1] < most,
        f"the vocabulary has ids from {ids[0]} to {ids[-1]}, but the text encoder tokens from 0 to {most - 1}: "
        "it is of another model",
        TokenizerError,
    )


def _pairs(vocabulary: Mapping[str, int], merges: Sequence[str]) -> list[tuple[str, str]]:
    """The merges as pairs; raises TokenizerError where they do not belong to the vocabulary."""
    check(isinstance(merges, (list, tuple)), "the merges have to be a list: they are damaged", TokenizerError)
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else () for merge in merges]
    for number, pair in enumerate(pairs, 1):
        check(
            len(pair) == 2 and all(token in vocabulary for token in (*pair, "".join(pair))),
            f'merge {number}, "{_quote(str(merges[number - 1]))}", does not merge two tokens of the vocabulary into '
            "a third: the vocabulary is damaged, or the merges are of another one",
            TokenizerError,
        )
    if len(vocabulary) == PUBLISHED:
        check(
            vocabulary == vocabulary_of(merges),
            f"the vocabulary has the {PUBLISHED} tokens of CLIP's, but they are not bytes, merges, start and end in "
            "this order: it is damaged",
            TokenizerError,
        )
    return pairs


def vocabulary_of(merges: Iterable[str]) -> dict[str, int]:
    """CLIP's ids by token, for these merges: bytes, bytes that end a word, merges, start and end."""
    bytes_ = list(_symbols())
    merged = (merge.replace(" ", "") for merge in merges)
    tokens = [*bytes_, *(symbol + END_OF_WORD for symbol in bytes_), *merged, START, END]
    return {token: i for i, token in enumerate(tokens)}


def _symbols() -> Iterator[str]:
    """The 256 bytes as characters, in the order of CLIP's vocabulary: printable ones first, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    yield from map(chr, printable)
    yield from (chr(256 + n) for n in range(256 - len(printable)))


def _check_prompt(prompt: str) -> None:
    check(isinstance(prompt, str), f"a prompt must be a string, got {type(prompt).__name__}", PromptError)
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        message = f'the prompt "{_quote(prompt)}" is not UTF-8: character {error.start + 1} stands for another byte'
        raise PromptError(message, setting="prompt") from None


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} ..."
