"""A server with the API of S3 for the tests, in memory. It prints its port, and ends when its standard input ends, so that it never
outlives the tests. A line on standard input, as in "seed BUCKET PREFIX VERSIONS", adds a model with many versions at once."""

import sys

from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

MODEL_TOML = b'[preprocess]\nkind = "tensor"\n[postprocess]\nkind = "tensor"\n'
MANIFEST = b'format = 1\n\n[files]\n"model.onnx" = "%s"\n' % (b"0" * 64)


def seed(bucket, prefix, versions):
    backend = s3_backends["123456789012"]["aws"]
    backend.put_object(bucket, f"{prefix}/many/model.toml", MODEL_TOML)
    for version in range(1, int(versions) + 1):
        backend.put_object(bucket, f"{prefix}/many/{version}/model.onnx", b"model")
        backend.put_object(bucket, f"{prefix}/many/{version}/version.toml", MANIFEST)


def main():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    print(port, flush=True)
    for line in sys.stdin:
        _, *arguments = line.split()
        seed(*arguments)
        print("done", flush=True)
    server.stop()


if __name__ == "__main__":
    main()
