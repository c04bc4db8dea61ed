"""An object store of a test's own: moto's server, asked through HTTP by the real s3fs.

Belongs here: starting it, and where s3fs finds it. Does not belong here: what is stored there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from unittest.mock import patch

import pytest

BUCKET = "artifacts"


@contextmanager
def s3_server() -> Iterator[str]:
    """A server with one empty bucket; gives its address, which the environment names as well.

    Skips the test where moto or s3fs is not installed.
    """
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server")
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "2",
    }
    with patch.dict(os.environ, settings):
        kind = fsspec.get_filesystem_class("s3")
        # fsspec keeps file systems, with the address that they were opened with.
        kind.clear_instance_cache()
        # What is stored outlives a server, for as long as its process.
        with suppress(FileExistsError):
            kind().mkdir(BUCKET)
        try:
            yield address
        finally:
            kind.clear_instance_cache()
            running.stop()
