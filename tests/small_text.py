"""A small vocabulary of CLIP's construction, a text tower that takes it, and their tokenizer."""

from svd.conditioning.tokenizer import END, START, Tokenizer
from svd.config import TextEncoderConfig

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
SYMBOLS = [*map(chr, PRINTABLE), *(chr(256 + n) for n in range(256 - len(PRINTABLE)))]
"""The bytes as the vocabulary writes them."""
WORDS = ("a", "the", "cat", "dog", "digit", "three", "seven", "fast", "slow", "photo", "of", "and")
"""Those that are a token each."""


def merges_of(words: tuple[str, ...]) -> list[str]:
    """Merges that make a token of each word, letter by letter."""
    merges = []
    for word in words:
        whole, last = word[:1], len(word) - 1
        for i, letter in enumerate(word[1:], 1):
            merges.append(f"{whole} {letter}" + ("</w>" if i == last else ""))
            whole += letter
    return list(dict.fromkeys(merges))


def vocabulary_of(merges: list[str]) -> dict[str, int]:
    """The tokens in CLIP's order: bytes, bytes that end a word, what merges make, start and end."""
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = [*SYMBOLS, *(symbol + "</w>" for symbol in SYMBOLS), *merged, START, END]
    return {token: i for i, token in enumerate(tokens)}


MERGES = merges_of(WORDS)
VOCABULARY = vocabulary_of(MERGES)
SMALL_TEXT = TextEncoderConfig(vocabulary=len(VOCABULARY), tokens=12, width=16, layers=2, heads=2)


def small_tokenizer(config: TextEncoderConfig = SMALL_TEXT) -> Tokenizer:
    return Tokenizer(VOCABULARY, MERGES, config)
