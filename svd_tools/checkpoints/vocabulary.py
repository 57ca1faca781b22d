"""The vocabulary of CLIP's tokenizer: read, written, or learned for a model that is trained from scratch."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from svd.checkpoints.tensor_header import CheckpointError
from svd.config import TextEncoderConfig
from svd.records import read_json

LARGEST_VOCABULARY = 32 << 20  # bytes of a file, and of what it expands to
WHERE = (
    "the folder tokenizer of a diffusers folder (vocab.json and merges.txt), or bpe_simple_vocab_16e6.txt.gz, which "
    "is in OpenAI's CLIP and in the package open_clip_torch"
)
"""Where there is one."""
_VERSION = "#version:"


def read_vocabulary(path: Path, config: TextEncoderConfig) -> str:
    """The vocabulary of a folder (vocab.json and merges.txt, or tokenizer.json), or of OpenAI's compressed list of
    merges, as the metadata of a checkpoint.

    Raises:
        CheckpointError: there is none.
        RecordError: a file is damaged.
        TokenizerError: it is not that of CLIP, or of another text encoder.
    """
    from svd.conditioning.tokenizer import Tokenizer  # --help and errors of files do not wait for its library

    if path.is_dir() and not any((path / name).exists() for name in ("vocab.json", "tokenizer.json")):
        path = path / "tokenizer"
    if path.is_file():
        vocabulary, merges = _read_merges(path, config) if path.suffix == ".gz" else _read_tokenizer(path)
    elif (path / "vocab.json").exists() and (path / "merges.txt").exists():
        vocabulary, merges = read_json(path / "vocab.json", LARGEST_VOCABULARY), _lines(path / "merges.txt")
    elif (path / "tokenizer.json").exists():
        vocabulary, merges = _read_tokenizer(path / "tokenizer.json")
    else:
        raise CheckpointError(f"{path} has no vocabulary: give {WHERE}", setting="tokenizer")
    return Tokenizer(vocabulary, merges, config).to_metadata()


def check_vocabulary(metadata: str, config: TextEncoderConfig) -> str:
    """The metadata, unless it raises TokenizerError because it is not that of the text encoder."""
    from svd.conditioning.tokenizer import Tokenizer

    Tokenizer.from_metadata(metadata, config)
    return metadata


def write_vocabulary(metadata: str, folder: Path) -> None:
    """Write vocab.json and merges.txt into a folder."""
    content = json.loads(metadata)
    (folder / "vocab.json").write_text(json.dumps(content["vocab"], ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("\n".join([f"{_VERSION} 0.2", *content["merges"], ""]), "utf-8")


def train_vocabulary(texts: Iterable[str], config: TextEncoderConfig) -> str:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) of CLIP's form that is learned from texts: bytes,
    bytes that end a word, as many merges as the text encoder has room for and the texts give, start and end.

    Returns the metadata of a checkpoint. Raises TokenizerError if the text encoder has no room for the bytes.
    """
    from tokenizers import pre_tokenizers, trainers

    from svd.conditioning.tokenizer import END_OF_WORD, Tokenizer, byte_pair_encoding, vocabulary_of

    alone = vocabulary_of(())
    room = max(config.vocabulary - len(alone), 0)
    trained = byte_pair_encoding(alone, [])
    trainer = trainers.BpeTrainer(
        vocab_size=len(alone) - 2 + room,  # start and end do not count
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    pairs = json.loads(trained.to_str())["model"]["merges"][:room]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    return Tokenizer(vocabulary_of(merges), merges, config).to_metadata()


def _read_tokenizer(path: Path) -> tuple[dict, list[str]]:
    """Vocabulary and merges of a tokenizer.json; merges are lines, or pairs."""
    content = read_json(path, LARGEST_VOCABULARY)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list) or "vocab" not in model:
        raise CheckpointError(f"{path} is no tokenizer of byte pairs: give {WHERE}", setting="tokenizer")
    pairs = (merge if isinstance(merge, list) else [merge] for merge in model["merges"])
    return model["vocab"], [" ".join(map(str, pair)) for pair in pairs]


def _read_merges(path: Path, config: TextEncoderConfig) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of OpenAI's list, which is longer than what the text encoder has room for."""
    from svd.conditioning.tokenizer import vocabulary_of

    merges = _lines(path)[: max(0, config.vocabulary - len(vocabulary_of(())))]
    return vocabulary_of(merges), merges


def _lines(path: Path) -> list[str]:
    """The merges in a text file, compressed or not."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(LARGEST_VOCABULARY + 1)
        lines = content.decode().rstrip("\n").split("\n")
    except (gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", setting="tokenizer") from error
    if len(content) > LARGEST_VOCABULARY:
        raise CheckpointError(f"{path} is larger than any vocabulary", setting="tokenizer")
    return lines[1:] if _VERSION in lines[0] else lines
