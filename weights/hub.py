"""Files from the Hugging Face hub, by its own library: its cache, its progress bars, its offline switch
(HF_HUB_OFFLINE=1)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import tokenizers

from ldm import InputError
from ldm.tokenizer import read_vocabulary
from weights.huggingface import PARTS

BERT = "google-bert/bert-base-uncased"
BERT_VOCAB_SIZE = 30522


def download_file(repo: str, names: Sequence[str]) -> Path:
    """The local path of the first of `names` that is cached, or else that the repository holds, downloaded.
    The cache comes first: what has been downloaded once loads at once, with or without a network.

    Raises InputError if there is none of them, or neither network nor a cached copy.
    """
    # here: the import costs more than loading the tiny model
    from huggingface_hub import errors, hf_hub_download

    for only_cached, name in [(True, name) for name in names] + [(False, name) for name in names]:
        try:
            return Path(hf_hub_download(repo, name, local_files_only=only_cached))
        except errors.LocalEntryNotFoundError as error:
            if not only_cached:
                raise InputError(f"{repo}: not in the local cache, and the hub cannot be reached (offline?): "
                                 "connect and try again, or give the path of a checkpoint on disk") from error
        except errors.EntryNotFoundError:
            pass                                        # another name may be there
        except errors.GatedRepoError as error:
            raise InputError(f"{repo}: access is restricted: accept its terms on the hub and log in "
                             "with 'hf auth login'") from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise InputError(f"{repo}: the hub has no such repository, or it is private: "
                             "check the name") from error
        except Exception as error:                      # time-outs, broken connections, full disks
            raise InputError(f"{repo}: download of {name} failed ({_first_line(error)}): "
                             "try again") from error
    raise InputError(f"{repo}: holds none of {', '.join(names)}: "
                     "not a text-to-image latent diffusion repository")


def download_folder(repo: str) -> Path:
    """The local folder, in Hugging Face layout, of a repository: configs, weights and vocabulary,
    nothing else."""
    folder = download_file(repo, ["unet/config.json"]).parents[1]
    for sub, names in PARTS.values():
        download_file(repo, [f"{sub}/config.json"])
        download_file(repo, [f"{sub}/{name}" for name in names])
    download_file(repo, ["tokenizer/vocab.txt", "tokenizer/tokenizer.json"])
    return folder


def find_vocabulary(vocab: str | Path | None, vocab_size: int) -> Callable[[], tokenizers.Tokenizer]:
    """A function that reads the vocabulary at `vocab`, or else BERT's from the hub;
    for Tokenizer, which calls it late."""
    return partial(read_vocabulary, vocab) if vocab is not None else partial(_download_vocabulary, vocab_size)


def _download_vocabulary(vocab_size: int) -> tokenizers.Tokenizer:
    if vocab_size != BERT_VOCAB_SIZE:
        raise InputError(f"this checkpoint holds no vocabulary, and its {vocab_size:,} tokens are not "
                         f"those of {BERT}: give the path of its vocab.txt as vocab=")
    try:
        return read_vocabulary(download_file(BERT, ["vocab.txt"]))
    except InputError as error:
        raise InputError(f"this checkpoint holds no vocabulary, and that of {BERT} is neither cached nor "
                         "can be downloaded (offline?): give the path of its vocab.txt as vocab=") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
