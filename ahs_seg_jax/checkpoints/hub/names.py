"""Names of places on the Hugging Face hub: `owner/name@revision/file`, `hf://...`, and addresses of a browser."""

import dataclasses
import os
import re
import urllib.parse

from ahs_seg_jax.errors import CheckpointError

HF, HOSTS = "hf://", ("huggingface.co", "hf.co")
FORMS = (
    "owner/name, owner/name@revision, owner/name/file, hf://spaces/owner/name/file, or "
    "https://huggingface.co/owner/name/resolve/main/file"
)
_KINDS = {"models": "model", "spaces": "space", "datasets": "dataset"}
_PART = r"[A-Za-z0-9][\w.-]*"
_REVISION = r"refs/(?:pr/\d+|convert/[\w.-]+)|[^/@\s]+"
_NAME = re.compile(rf"(?:({'|'.join(_KINDS)})/)?({_PART}/{_PART})(?:@({_REVISION}))?(?:/([^@\s]+))?")
_IN_A_BROWSER = re.compile(
    rf"(?:({'|'.join(_KINDS)})/)?({_PART}/{_PART})(?:/(?:resolve|blob|raw|tree)/({_REVISION})(?:/([^@\s]+))?)?"
)
_WEB = re.compile(r"https?://", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class HubName:
    """A repository, or one file in it. An empty revision is the main branch, an empty file the repository's weights."""

    repo: str  # owner/name
    kind: str = "model"  # model | space | dataset
    revision: str = ""  # a branch, tag or commit
    file: str = ""  # its path within the repository

    @property
    def place(self) -> str:
        """The repository as it is written in an address: `owner/name`, `spaces/owner/name`."""
        return self.repo if self.kind == "model" else f"{self.kind}s/{self.repo}"

    @property
    def page(self) -> str:
        """The address of the repository's page."""
        return f"{endpoint()}/{self.place}"

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.place}{revision}{'/' if self.file else ''}{self.file}"


def endpoint() -> str:
    """The hub's address; HF_ENDPOINT names another one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_explicit(source: str) -> bool:
    """Whether the text can only be meant as an address."""
    return source.startswith(HF) or _WEB.match(source) is not None


def parse(source: str) -> HubName | None:
    """The place that a text names; None for a text that has none of the forms.

    Raises:
      CheckpointError: an address that is malformed, or of another site.
    """
    if _WEB.match(source):
        found = _IN_A_BROWSER.fullmatch(_path_on_the_hub(source))
    else:
        found = _NAME.fullmatch(source.removeprefix(HF))
    if found and _is_plain(found[4] or ""):
        revision = urllib.parse.unquote(found[3] or "")
        return HubName(found[2], _KINDS.get(found[1], "model"), revision, found[4] or "")
    if is_explicit(source):
        raise CheckpointError(f"{source} names no file or repository of the Hugging Face hub; the forms are {FORMS}")
    return None


def _is_plain(file: str) -> bool:
    """Whether a path stays within its repository."""
    return not file or all(part not in ("", ".", "..") for part in file.split("/"))


def _path_on_the_hub(address: str) -> str:
    """What follows the hub's host in an address, without the query."""
    parts, own = urllib.parse.urlsplit(address), urllib.parse.urlsplit(endpoint())
    path = urllib.parse.unquote(parts.path).strip("/")
    if parts.netloc == own.netloc:
        return path.removeprefix(own.path.strip("/")).strip("/")
    if parts.hostname in HOSTS:
        return path
    raise CheckpointError(
        f"{address} is no address of the Hugging Face hub ({', '.join(HOSTS)}); download the file with your browser "
        "and give its path"
    )
