"""The Hub: a model's files, the licence in a card, the hash of a file, and what to say when something goes wrong. Read `lab.public` first."""

import hashlib
from contextlib import contextmanager
from pathlib import Path

from lab.data import DataError


# Weights by the names that transformers and peft give them, beside settings, vocabulary and template. Never a pickle, and never a program.
MODEL_FILES = ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model")


def model_folder(name):
    """The folder of a model in the cache. What is not there yet is downloaded, and every file's hash is checked each time.

    Where the Hub cannot be asked, a model that is wholly in the cache is taken as it is. Raises DataError.
    """
    from huggingface_hub import snapshot_download

    with in_one_sentence(name, NO_MODEL):
        folder = Path(snapshot_download(name, allow_patterns=MODEL_FILES, ignore_patterns="*/*"))  # nothing of folders below
        for file in filter(Path.is_file, folder.iterdir()):
            check_file(name, file.name, file)
    return folder


def card_licence(name):
    """The licence that the card of a set names; None if it names none or there is no card."""
    from huggingface_hub import DatasetCard
    from huggingface_hub.errors import RemoteEntryNotFoundError  # its parent would also hide a Hub that is down

    try:
        found = DatasetCard.load(name).data.get("license")
    except RemoteEntryNotFoundError:
        return None
    return ", ".join(found) if isinstance(found, list) else found


def check_hash(name, url):
    """Download hf://datasets/owner/name@commit/path, and check the file."""
    from huggingface_hub import hf_hub_download

    commit, _, path = url.partition(f"{name}@")[2].partition("/")
    check_file(name, path, Path(hf_hub_download(name, path, repo_type="dataset", revision=commit)))


def check_file(name, path, file):
    """Compare a file in the cache, a link there, with the hash that the Hub gave as its name: that is the name of what it links to.

    The libraries compare the size alone. Without this, a file that was changed on its way would be used and kept.
    """
    blob = file.parent / file.readlink() if file.is_symlink() else file  # one step: it may be a link itself, to a store with names of another kind
    digest = file_hash(blob)
    if digest is not None and digest != blob.name:
        for part in (blob.resolve(), blob, file):
            part.unlink(missing_ok=True)  # so that the next try loads it anew
        raise DataError(f"{name}: the file {path} is not the one that the Hub announced (its hash is {digest[:8]}..., not {blob.name[:8]}...): "
                        "it has been deleted here, load it again")


def file_hash(blob):
    """The hash by which the Hub's cache names a file: SHA-256 of a large one (64 digits), git's of a small one (40 digits).
    None if it has another name, as where the cache cannot link and keeps copies."""
    if len(blob.name) == 64:
        with blob.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if len(blob.name) == 40:
        content = blob.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# What went wrong


NO_SET = "load it once with a network (a set that is streamed is never kept), or give a local file as source"
NO_MODEL = "load it once with a network, or take a local folder, 'pocket' or 'smollm2', which need none"


@contextmanager
def in_one_sentence(name, instead=NO_SET):
    """Whatever the libraries raise, as a DataError that says what to do. instead: what to do where there is no Hub."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # those of datasets, huggingface_hub, the HTTP client, pyarrow
        raise DataError(f"{name}: {reason(list(causes(error)), instead)}") from error


def causes(error):
    """The error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


STATUS = {
    401: "the Hub does not give it without a login: set HF_TOKEN, after accepting its terms on its page if it has any",
    403: "the Hub does not give it to you: accept its terms on its page, and set HF_TOKEN",
    404: "the Hub has nothing of this name, or it lacks a file: check the spelling, and look whether it was renamed (the sets' names are in lab.public.SETS)",
    429: "the Hub has had too many requests from here (429): wait some minutes; with HF_TOKEN set, more are allowed",
}


def reason(errors, instead):
    """One sentence on a chain of errors, the last effect first, and on what to do instead."""
    from huggingface_hub.errors import HfHubHTTPError

    names, text = {type(error).__name__ for error in errors}, str(errors[0]).strip().split("\n")[0]
    status = next((error.response.status_code for error in errors if isinstance(error, HfHubHTTPError) and error.response is not None), None)
    if "OfflineModeIsEnabled" in names or "OfflineModeIsEnabled" in text:
        return f"it is not in the cache, and offline mode is on: {instead}"
    if names & {"DatasetNotFoundError", "RepositoryNotFoundError"} and "GatedRepoError" not in names:
        return STATUS[404]
    if "HFValidationError" in names:
        return "a name on the Hub is owner/name, and this is none"
    if status is not None:
        return STATUS.get(status, f"the Hub answered with an error ({status}): try again later, or {instead}")
    if any("Consistency check failed" in str(error) for error in errors):
        return "a file arrived with the wrong size: load it again"
    if names & {"ConnectError", "ConnectionError", "RemoteProtocolError", "ReadError", "ReadTimeout", "ConnectTimeout"}:
        return f"the Hub cannot be reached, or the connection was cut: try again, or {instead}"
    return f"it could not be loaded ({type(errors[0]).__name__}: {text})"
