"""Where files are: a folder of this machine, or ``s3://bucket/prefix`` on any store that speaks S3. One Arrow file system for both.

Credentials and region are found as every AWS tool finds them (environment, profile, instance); ``AWS_ENDPOINT_URL_S3`` or
``AWS_ENDPOINT_URL`` names another server (MinIO, Ceph). Keys are taken to the letter.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from pyarrow import fs

S3 = "s3://"
CONNECT_TIMEOUT_S = 10.0
_TRIES = 4


def locate(where: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it. Raises OSError where a bucket's region cannot be found."""
    text = str(where)
    if not text.startswith(S3):
        return fs.LocalFileSystem(), str(Path(text).absolute())
    path = text.removeprefix(S3).rstrip("/")
    return s3_file_system(path.partition("/")[0]), path


def s3_file_system(bucket: str) -> fs.S3FileSystem:
    """The store that holds a bucket, as the environment names it now."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return _s3_file_system(bucket, endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "")


@cache
def _s3_file_system(bucket: str, endpoint: str, region: str) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        region=region or (fs.resolve_s3_region(bucket) if not endpoint else "us-east-1"),
        connect_timeout=CONNECT_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )
