"""A student from the Hugging Face hub: one commit's weights, tokenizer and configs, in the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from pudistill_cli.errors import DataError
from pudistill_cli.files.private_files import as_others_are
from pudistill_cli.network import check_certificates, check_every_proxy
from pudistill_cli.redaction import redacted_words

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WEIGHTS = ["*.safetensors", "model.safetensors.index.json"]
_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE*",
]


def download(hub_id: str, revision: str | None, *, offline: bool, weights: bool = True) -> Path:
    """The folder of a commit in the local cache, with its weights or without; its name is the commit's hash.

    What is cached already is not fetched again, and a download that was cut off goes on. With `offline`, or
    `HF_HUB_OFFLINE=1`, no socket is opened; without a connection, or with a proxy or certificates that cannot be used,
    the cache is used as well.

    Raises:
        DataError: no such model or revision, no access to it, or neither a connection nor a cached copy.
    """
    from huggingface_hub import constants, errors, snapshot_download  # pyright: ignore[reportUnknownVariableType]

    offline = offline or constants.HF_HUB_OFFLINE
    unusable = None if offline else _network_problem()
    try:
        with as_others_are():
            return Path(
                snapshot_download(
                    hub_id,
                    revision=revision,
                    allow_patterns=[*_WEIGHTS, *_FILES] if weights else _FILES,
                    ignore_patterns=["*/*"],
                    local_files_only=offline or unusable is not None,
                )
            )
    except errors.GatedRepoError as error:
        raise DataError(
            f"{hub_id} is gated: its owner wants you to accept terms first.",
            f"Accept them at https://huggingface.co/{hub_id}, then: hf auth login",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"There is no model {hub_id} on the hub, or it is private.",
            "Check the name; for a private one: hf auth login. A local folder is written ./like/this.",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(
            f"{hub_id} has no revision {revision!r}.", "Give a branch, a tag or a whole commit hash."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if unusable is not None:
            raise unusable from None
        why = "this run is offline" if offline else "the hub cannot be reached"
        raise DataError(
            f"{hub_id} is not in the local cache, and {why}.",
            f"With a connection: hf download {hub_id}. Or give a local folder as student.model.",
        ) from error
    except Exception as error:
        raise DataError(
            f"The download of {hub_id} stopped: {type(error).__name__}: {redacted_words(str(error))}",
            "Run the same command again: it goes on where it stopped.",
        ) from error


def _network_problem() -> DataError | None:
    """What the hub's client, which reads all these variables itself, would end with; None if they are good."""
    try:
        check_every_proxy(DataError)
        check_certificates(DataError)
    except DataError as problem:
        return problem
    return None
