"""The tokenizer: what becomes of a prompt, and which vocabularies and prompts are refused."""

import json
from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest
from small_text import MERGES, SMALL_TEXT, SYMBOLS, VOCABULARY, small_tokenizer, vocabulary_of

from svd.conditioning.tokenizer import END, START, PromptError, Tokenizer, TokenizerError
from svd.config import TextEncoderConfig

TOKENS = {i: token for token, i in VOCABULARY.items()}


def tokens_of(prompt: str) -> list[str]:
    """The tokens between start and end."""
    (row,), warnings = small_tokenizer()([prompt])
    assert not warnings
    tokens = [TOKENS[i] for i in row]
    assert tokens[0] == START
    return tokens[1 : tokens.index(END)]


@pytest.mark.parametrize(
    "prompt, expected",
    [
        ("a cat", ["a</w>", "cat</w>"]),
        (" The\tCAT \n", ["the</w>", "cat</w>"]),  # white space and capitals
        ("catdog", ["ca", "t", "dog</w>"]),
        ("a cat's 42", ["a</w>", "cat</w>", "'", "s</w>", "4</w>", "2</w>"]),
        ("!?", ["!", "?</w>"]),
        ("e\u0301", ["Ã", "©</w>"]),  # composed, then its two bytes
        ("&amp;", ["&</w>", "a", "m", "p</w>", ";</w>"]),  # entities stay
        ("a\x00cat", ["a</w>", "Ā</w>", "cat</w>"]),
        ("", []),
    ],
)
def test_pieces_and_merges(prompt, expected):
    assert tokens_of(prompt) == expected


@pytest.mark.parametrize("padding", ["end", "zero"])
def test_prompts_are_padded(padding):
    """A "!" is a character, also where its token pads."""
    tokens, _ = small_tokenizer(replace(SMALL_TEXT, padding=padding))(["a !", ""])
    start, end = VOCABULARY[START], VOCABULARY[END]
    pad = end if padding == "end" else VOCABULARY["!"]
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [
        [start, VOCABULARY["a</w>"], VOCABULARY["!</w>"], end, *[pad] * 8],
        [start, end, *[pad] * 10],
    ]


def test_long_prompts_are_cut_with_a_warning():
    fits, long = "a " * 10, "A " * 10 + "Dog and a Cat " + "of " * 10_000
    tokens, (warning,) = small_tokenizer()([fits, long])
    assert tokens[0].tolist() == tokens[1].tolist() == [VOCABULARY[START], *[VOCABULARY["a</w>"]] * 10, VOCABULARY[END]]
    assert warning.startswith('a prompt of 10014 tokens is cut after 10: "Dog and a Cat of of') and len(warning) < 150


def test_metadata():
    tokenizer, prompts = small_tokenizer(), ["a fast cat", "日本 😀"]
    again = Tokenizer.from_metadata(tokenizer.to_metadata(), SMALL_TEXT)
    np.testing.assert_array_equal(again(prompts)[0], tokenizer(prompts)[0])


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", '{"vocab": {}}', '{"vocab": 3, "merges": []}'])
def test_damaged_metadata(text):
    with pytest.raises(TokenizerError, match="tokenizer of the checkpoint|vocabulary"):
        Tokenizer.from_metadata(text, SMALL_TEXT)


def without(token: str) -> dict[str, int]:
    return {other: i for other, i in VOCABULARY.items() if other != token}


@pytest.mark.parametrize(
    "vocabulary, merges, message",
    [
        ({"hello": 0, "world": 1}, [], "not that of CLIP: it has no token <|startoftext|>"),
        (without(END), MERGES, "not that of CLIP: it has no token <|endoftext|>"),
        (without("th"), MERGES, 'merge 1, "t h", does not merge two tokens'),
        (VOCABULARY, ["#version: 0.2", *MERGES], 'merge 1, "#version: 0.2"'),
        (VOCABULARY, [*MERGES, "a"], f'merge {len(MERGES) + 1}, "a"'),
        (VOCABULARY, [["t", "h"]], "merge 1"),
        (VOCABULARY, "t h", "have to be a list"),
        (VOCABULARY | {"a": 1}, MERGES, "an id twice"),
        (VOCABULARY | {"a": "1"}, MERGES, "tokens to integers"),
        (VOCABULARY | {"a": -1}, MERGES, "ids from -1 to"),
        (VOCABULARY | {"a": 10_000}, MERGES, "to 10000, but the text encoder tokens from 0 to 543"),
        ([*VOCABULARY], MERGES, "tokens to integers"),
    ],
)
def test_vocabularies_that_are_refused(vocabulary, merges, message):
    assert SMALL_TEXT.vocabulary == 544
    with pytest.raises(TokenizerError, match=message.replace("|", r"\|")):
        Tokenizer(vocabulary, merges, SMALL_TEXT)


def test_the_order_of_a_published_vocabulary():
    """One of CLIP's size is checked token by token."""
    merges = [" ".join(pair) for pair in islice(product(SYMBOLS, SYMBOLS), 48894)]
    vocabulary, config = vocabulary_of(merges), TextEncoderConfig()
    Tokenizer(vocabulary, merges, config)
    for damaged in (vocabulary | {"a": vocabulary["b"], "b": vocabulary["a"]}, vocabulary):
        changed = merges if damaged is not vocabulary else merges[:-1]
        with pytest.raises(TokenizerError, match="in this order: it is damaged"):
            Tokenizer(damaged, changed, config)


@pytest.mark.parametrize("prompt", [None, 3, b"a cat", ["a cat"]])
def test_prompts_are_strings(prompt):
    with pytest.raises(PromptError, match="a prompt must be a string, got"):
        small_tokenizer()(["a cat", prompt])


def test_prompts_are_utf_8():
    with pytest.raises(PromptError, match="not UTF-8: character 3") as raised:
        small_tokenizer()([b"a \xff".decode(errors="surrogateescape")])
    assert raised.value.setting == "prompt"


def test_metadata_is_json():
    data = json.loads(small_tokenizer().to_metadata())
    assert data == {"vocab": VOCABULARY, "merges": MERGES}
