"""Reads one target of a repository in a directory with python-tuf's client.

Arguments: the repository (metadata/, targets/, anchor.json), the client's own directory, the target's path.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater


class FileFetcher(FetcherInterface):
    """file: URLs; a missing file is a 404."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlparse(url).path))
        if path.is_file():
            return iter([path.read_bytes()])
        raise DownloadHTTPError(f"{url} is not there", 404)


def main() -> None:
    repository, client, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    updater = Updater(
        metadata_dir=str(client / "metadata"),
        metadata_base_url=(repository / "metadata").as_uri() + "/",
        target_dir=str(client),
        target_base_url=(repository / "targets").as_uri() + "/",
        fetcher=FileFetcher(),
        bootstrap=(repository / "anchor.json").read_bytes(),
    )
    updater.refresh()
    target = updater.get_targetinfo(name)
    if target is None:
        sys.exit(f"{name} is not in the repository")
    updater.download_target(target, str(client / "target"))


main()
