"""Files from the Hugging Face hub, through its own library, with its cache, progress bars and offline switch
(HF_HUB_OFFLINE=1)."""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import tokenizers

from ldm import CLIPTextConfig, CLIPTokenizer, InputError, TextConfig, Tokenizer
from ldm.errors import NoVocabulary, first_line
from ldm.tokenizer import BaseTokenizer, Vocabulary
from weights.filling import naming
from weights.huggingface import (
    LATENT_DIFFUSION,
    PADDING_FILES,
    STABLE_DIFFUSION,
    check_kind,
    pad_token,
    read_config,
    weight_files,
)
from weights.vocabularies import read_vocabulary

# for a checkpoint without a vocabulary: the repository that has it, its number of tokens, and its files
VOCABULARIES = {Tokenizer: ("google-bert/bert-base-uncased", 30522, ("vocab.txt",)),
                CLIPTokenizer: ("openai/clip-vit-large-patch14", 49408, ("vocab.json", "merges.txt"))}


class Absent(InputError):
    """The repository has no such file."""


def download_file(repo: str, names: Sequence[str], commit: str | None = None) -> Path:
    """The local path of the first of `names` that is cached, or else the first in the repository, downloaded.
    The cache comes first: a file downloaded before loads immediately, with or without a network.

    commit: hash of the repository's commit; by default the last one downloaded from, else the latest.

    Raises Absent if none of them exists, and InputError if there is neither a network nor a cached copy.
    """
    # imported here: it takes longer than loading the tiny model
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()                       # no warning on each try; the last failure is raised
    for only_cached, name in [(True, name) for name in names] + [(False, name) for name in names]:
        if not only_cached:
            _announce(repo)
        try:
            return Path(hf_hub_download(repo, name, revision=commit, local_files_only=only_cached))
        except errors.LocalEntryNotFoundError as error:
            if not only_cached:
                raise InputError(f"{repo}: {name} is not in the local cache, and the hub cannot be reached "
                                 f"(offline? {first_line(error.__cause__ or error)}). Connect and try "
                                 "again, or give the path of a checkpoint.") from error
        except errors.EntryNotFoundError:
            pass                                        # another name may exist
        except errors.RevisionNotFoundError as error:
            if commit is None:
                raise InputError(f"{repo}: has no branch 'main'. Give another repository.") from error
            raise InputError(f"{repo}: the hub no longer has the commit that is partly in the local cache. "
                             f"Delete {_cached(repo)} and try again.") from error
        except errors.GatedRepoError as error:
            raise InputError(f"{repo}: access is restricted. Accept its terms on the hub and log in "
                             "with 'hf auth login'.") from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise InputError(f"{repo}: the hub has no such repository, or it is private. "
                             "Check the name.") from error
        except Exception as error:                      # timeouts, broken connections, full disks
            raise InputError(f"{repo}: download of {name} failed ({first_line(error)}). "
                             "Try again.") from error
    raise Absent(f"{repo}: contains none of {', '.join(names)}. "
                 "Give a repository of a text-to-image latent diffusion model.")


def _cached(repo: str) -> Path:
    """Where the hub's library keeps a repository's files."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")


@cache
def _announce(repo: str) -> None:
    """Once per repository: an unreachable hub is tried for half a minute."""
    print(f"{repo}: contacting the Hugging Face hub", file=sys.stderr)


def download_folder(repo: str) -> Path:
    """The local folder of a repository, in Hugging Face layout: configs, weights and vocabulary, nothing
    else, all of one commit. Raises InputError, before the weights are downloaded, if the configs describe
    another model."""
    # config.json is that of a single part, such as a ControlNet, which is refused by name
    index = download_file(repo, ["model_index.json", "unet/config.json", "config.json"])
    folder = index.parents[1] if index.parent.name == "unet" else index.parent
    with naming(Path(repo)):
        check_kind(folder)
    download = partial(download_file, repo, commit=folder.name)
    download(["unet/config.json"])
    text = download(["text_encoder/config.json", "bert/config.json"]).parent.name
    folders = STABLE_DIFFUSION if text == "text_encoder" else LATENT_DIFFUSION
    for sub in folders.values():
        download([f"{sub}/config.json"])
    if folders is STABLE_DIFFUSION:
        download(["scheduler/scheduler_config.json"])
        _download_padding(repo, folder.name)
    read_config(folder)
    for part, sub in folders.items():
        download([f"{sub}/{name}" for name in weight_files(part)])
    if folders is LATENT_DIFFUSION:
        download(["tokenizer/vocab.txt", "tokenizer/tokenizer.json"])
    elif download(["tokenizer/vocab.json", "tokenizer/tokenizer.json"]).name == "vocab.json":
        download(["tokenizer/merges.txt"])
    return folder


def _download_padding(repo: str, commit: str) -> None:
    """Download the files that may name the padding token, until one does: a repository may lack either. A
    file known to be absent is not requested again."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    for name in (f"tokenizer/{name}" for name in PADDING_FILES):
        if try_to_load_from_cache(repo, name, revision=commit) is not _CACHED_NO_EXIST:
            with contextlib.suppress(Absent):
                if pad_token(download_file(repo, [name], commit)) is not None:
                    return


def find_vocabulary(vocab: str | Path | None, config: TextConfig | CLIPTextConfig) -> Vocabulary:
    """A function that reads the vocabulary at `vocab`, or else the text encoder's from the hub. The
    tokenizer calls it only when it needs it."""
    kind = CLIPTokenizer if isinstance(config, CLIPTextConfig) else Tokenizer
    if vocab is not None:
        return partial(read_vocabulary, vocab, kind)
    return partial(_download_vocabulary, config.vocab_size, kind)


def _download_vocabulary(vocab_size: int, kind: type[BaseTokenizer]) -> tokenizers.Tokenizer:
    repo, its_size, files = VOCABULARIES[kind]
    if vocab_size != its_size:
        raise NoVocabulary(f"this checkpoint has no vocabulary, and its {vocab_size:,} tokens are not "
                           f"those of {repo}. Give the path of its {files[0]} as `vocab`.")
    try:
        path = download_file(repo, files[:1])
        for name in files[1:]:
            download_file(repo, [name], path.parent.name)
    except InputError as error:
        raise NoVocabulary(f"this checkpoint has no vocabulary, and that of {repo} is not cached and "
                           "cannot be downloaded (offline?). Give the path of its "
                           f"{files[0]} as `vocab`.") from error
    return read_vocabulary(path, kind)
