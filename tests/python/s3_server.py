"""A server of S3 for tests: moto's, with one bucket, on a free port.

It prints its address, answers each line of its input with one line, and ends with its input. The input `age KEY HOURS` makes an
object of the bucket older; S3 itself has no call for that.

    s3_server.py BUCKET
"""

import logging
import os
import sys
from datetime import timedelta

# Real S3 takes no part below 5 MiB; tests of many uploads send smaller ones. Read when moto is imported.
os.environ.setdefault("S3_UPLOAD_PART_MIN_SIZE", "64")
os.environ.setdefault("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", "1048576")

import boto3
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend, s3_backends


take_part = S3Backend.upload_part


def upload_part(self, bucket_name, multipart_id, part_id, value):
    """S3 answers 404 to a part of an upload that has ended; moto fails with 500."""
    if multipart_id not in self.get_bucket(bucket_name).multiparts:
        raise NoSuchUpload(upload_id=multipart_id)
    return take_part(self, bucket_name, multipart_id, part_id, value)


def main():
    name = sys.argv[1]
    S3Backend.upload_part = upload_part
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=name)
    print(address, flush=True)
    for line in sys.stdin:
        word, key, hours = line.split()
        assert word == "age", line
        bucket = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[name]
        bucket.keys[key].last_modified -= timedelta(hours=int(hours))
        print("done", flush=True)
    server.stop()


main()
