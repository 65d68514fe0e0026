"""Publishing weights on the Hugging Face hub: all files in one commit, or nothing.

Nothing here is called but by the user's wish (`scal3r push`, `push_to_hub`). What goes wrong is one line with what
helps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars, validate_repo_id

from scal3r_train.config import UserError
from scal3r_train.model.hub_files import CARD_NAME, published_files

# Left from an earlier version of a repository, these would be read in place of what is published now.
REPLACED_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 401, 403, 404


def check_repo_id(repo_id: str) -> None:
    """Raise UserError unless a name is OWNER/NAME as the hub has them."""
    try:
        validate_repo_id(repo_id)
        is_name = repo_id.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise UserError(
            f"{repo_id!r} is no name of a repository; write USER/NAME, of letters, digits, dots, hyphens, underscores"
        )


def listing(repo_id: str, files: Mapping[str, Path | bytes]) -> str:
    """Return what is published, one line a file with its size, then the card."""
    sizes = {name: _size(content) for name, content in files.items()}
    width = max(map(len, sizes))
    lines = [f"{name:{width}}  {size:14,} bytes" for name, size in sizes.items()]
    lines.append(f"{'':{width}}  {sum(sizes.values()):14,} bytes to {constants.ENDPOINT}/{repo_id}")
    card = files[CARD_NAME]
    assert isinstance(card, bytes)
    return "\n".join([*lines, "", card.decode("utf-8")])


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    is_dry_run: bool = False,
    token: str | bool | None = None,
    message: str = "Upload a Scal3R model",
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Publish a folder of weights, with recipe and card, in one commit; return its address (of a dry run the listing).

    Weights that the repository holds from before and that are not among the new ones are removed by the same commit.

    Args:
        folder: as `save_pretrained` and trainings write it.
        repo_id: OWNER/NAME; it is made when it does not exist.
        private: whether a new repository is; None: as the owner's settings say.
        is_dry_run: publish nothing, return what would be.
        token: of the hub; None or True: the one that is stored, or of HF_TOKEN.
        message: of the commit.
        revision: branch; None: main.
        create_pr: propose it instead.

    Raises:
        UserError: the name, the folder, the token or the network cannot be used, or the hub refuses; nothing of the
            folder is published then.
    """
    check_repo_id(repo_id)
    files = published_files(folder, repo_id)
    if is_dry_run:
        return listing(repo_id, files)
    if token in (None, True) and get_token() is None:
        raise UserError("no token of the Hugging Face hub; run `hf auth login`, or set HF_TOKEN")
    with _explained(repo_id):
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        before = api.list_repo_files(repo_id, revision=revision)
        stale = [
            name for name in before if name not in files and any(fnmatch(name, p) for p in REPLACED_PATTERNS)
        ]
        commit = api.create_commit(
            repo_id,
            operations=[
                *(
                    CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
                    for name, content in files.items()
                ),
                *(CommitOperationDelete(path_in_repo=name) for name in stale),
            ],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
    return str(commit.pr_url or commit.commit_url)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Let what the hub and the way there object to be one line with what helps."""
    has_bars = sys.stderr.isatty()
    if not has_bars:
        disable_progress_bars()
    try:
        yield
    except HfHubHTTPError as error:
        raise UserError(_refused(repo_id, error)) from error
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so that the hub is not asked; unset it to publish") from None
    except Exception as error:  # of the HTTP library, which is another one in other versions
        is_of_the_way = isinstance(error, OSError) or type(error).__module__.startswith("httpx")
        if not is_of_the_way:
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{constants.ENDPOINT} cannot be reached ({reason}); nothing was published: try again with a network"
        ) from error
    finally:
        if not has_bars:
            enable_progress_bars()


def _refused(repo_id: str, error: HfHubHTTPError) -> str:
    status, owner = error.response.status_code, repo_id.split("/")[0]
    if status == UNAUTHORIZED:
        return "the Hugging Face hub does not accept the token; run `hf auth login`, or renew HF_TOKEN"
    if status in (FORBIDDEN, NOT_FOUND):
        return (
            f"the token may not write to {repo_id}: take one with write access to {owner} "
            "(https://huggingface.co/settings/tokens), or a name of your own"
        )
    reason = error.server_message or (str(error).strip().splitlines() or ["no reason"])[0]
    return f"the Hugging Face hub refused {repo_id} ({status}: {reason}); nothing was published"


def _size(content: Path | bytes) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)
