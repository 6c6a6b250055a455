"""Everything that tritonclient asks a server for, over HTTP and gRPC, each sync and asyncio.

`python triton.py KIND ADDRESS TOKEN`, where KIND is http, http.aio, grpc or grpc.aio, and TOKEN is that of operators.
"""

import asyncio
import importlib
import inspect
import sys
import time

import numpy as np
from tritonclient.utils import InferenceServerException


class Client:
    """A client whose calls can be awaited, whichever module it is from, and whose answers are plain Python values."""

    def __init__(self, kind, address):
        self.module = importlib.import_module(f"tritonclient.{kind}")
        self.is_grpc = kind.startswith("grpc")
        self.client = self.module.InferenceServerClient(address)

    async def ask(self, name, *arguments, **options):
        if self.is_grpc and name.startswith("get_"):
            options["as_json"] = True
        answer = getattr(self.client, name)(*arguments, **options)
        return await answer if inspect.isawaitable(answer) else answer

    def input(self, name, array, datatype, **options):
        item = self.module.InferInput(name, list(array.shape), datatype)
        item.set_data_from_numpy(array, **options)
        return item

    def output(self, name, **options):
        return self.module.InferRequestedOutput(name, **options)

    async def close(self):
        await self.ask("close")


async def refused(awaitable, *texts):
    try:
        await awaitable
    except InferenceServerException as error:
        message = f"{error.status()} {error.message()}"
        assert all(text in message for text in texts), message
        return
    raise AssertionError(f"it was not refused, expected {texts}")


async def refused_with(awaitable, *statuses):
    try:
        await awaitable
    except InferenceServerException as error:
        assert error.status() in statuses, f"{error.status()} {error.message()}"
        return
    raise AssertionError(f"it was not refused, expected {statuses}")


def two_inputs(client, rows=2):
    a = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    t = np.arange(rows, dtype=np.int64)
    return [client.input("a", a, "FP32"), client.input("t", t, "INT64")], a, t


async def health_and_metadata(client):
    assert await client.ask("is_server_live")
    assert await client.ask("is_server_ready")
    assert await client.ask("is_model_ready", "two")
    assert await client.ask("is_model_ready", "two", "1")
    assert not await client.ask("is_model_ready", "two", "7")
    assert not await client.ask("is_model_ready", "nothing")
    server = await client.ask("get_server_metadata")
    assert server["name"] == "leeway" and "binary_tensor_data" in server["extensions"], server
    for version in ("", "1"):
        metadata = await client.ask("get_model_metadata", "two", version)
        assert metadata["name"] == "two" and metadata["versions"] == ["1"], metadata
        shapes = [(i["name"], i["datatype"], [int(length) for length in i["shape"]]) for i in metadata["inputs"]]
        assert shapes == [("a", "FP32", [-1, 3]), ("t", "INT64", [-1])], metadata
        assert [output["name"] for output in metadata["outputs"]] == ["doubled", "negated"], metadata
    config = await client.ask("get_model_config", "two")
    config = config.get("config", config)
    assert config["name"] == "two" and config["input"][0]["data_type"] == "TYPE_FP32", config
    await refused(client.ask("get_model_metadata", "nothing"), "nothing")


async def inference(client):
    inputs, a, t = two_inputs(client)
    answer = await client.ask("infer", "two", inputs, request_id="the-id")
    assert np.array_equal(answer.as_numpy("doubled"), a + a) and np.array_equal(answer.as_numpy("negated"), -t)
    response = answer.get_response(as_json=True) if client.is_grpc else answer.get_response()
    assert response["id"] == "the-id" and response["model_name"] == "two" and response["model_version"] == "1", response
    # One of the outputs, of one of the versions.
    answer = await client.ask("infer", "two", inputs, model_version="1", outputs=[client.output("negated")])
    assert answer.as_numpy("doubled") is None and np.array_equal(answer.as_numpy("negated"), -t)
    answer = await client.ask("infer", "two", inputs, priority=1, timeout=10_000_000, parameters={"content": "model"})
    assert np.array_equal(answer.as_numpy("doubled"), a + a)


async def columns(client):
    """A pipeline takes the columns of its table, and answers its predictions."""
    island = np.array([["Biscoe"], ["Dream"]], dtype=object)
    numbers = {
        "bill_length_mm": [48.7, 39.5], "bill_depth_mm": [14.1, 17.4], "flipper_length_mm": [210, 186],
        "body_mass_g": [4450, 3800],
    }
    inputs = [client.input("island", island, "BYTES")]
    inputs += [client.input(name, np.array(column, dtype=np.float64), "FP64") for name, column in numbers.items()]
    inputs += [client.input("sex", np.array(["female", "female"], dtype=object), "BYTES")]
    answer = await client.ask("infer", "penguins", inputs, parameters={"content": "pipeline"})
    assert [label.decode() for label in answer.as_numpy("label")] == ["Gentoo", "Adelie"], answer.as_numpy("label")
    assert answer.as_numpy("confidence").shape == (2,)
    await refused(client.ask("infer", "penguins", inputs[1:], parameters={"content": "pipeline"}), "island")


async def statistics(client):
    inputs, _, _ = two_inputs(client)
    before = await client.ask("get_inference_statistics", "two")
    for _ in range(3):
        await client.ask("infer", "two", inputs)
    after = await client.ask("get_inference_statistics", "two", "1")
    stats = lambda answer: answer["model_stats"][0]
    count = lambda answer: int(stats(answer).get("inference_stats", {}).get("success", {}).get("count", 0))
    rows = lambda answer: int(stats(answer).get("inference_count", 0))
    # Other tests may ask at the same time.
    assert stats(after)["name"] == "two" and stats(after)["version"] == "1", after
    assert count(after) - count(before) >= 3 and rows(after) - rows(before) >= 6, (before, after)
    everything = await client.ask("get_inference_statistics")
    assert len(everything["model_stats"]) > 10


async def repository(client, token):
    entries = await client.ask("get_model_repository_index")
    entries = entries["models"] if client.is_grpc else entries
    states = {entry["name"]: entry["state"] for entry in entries}
    assert states["two"] == "READY" and states["whole_FP32"] == "READY", entries
    rights = {"authorization": f"Bearer {token}"}
    await refused(client.ask("unload_model", "rows_INT8"), "token")
    await refused(client.ask("unload_model", "nothing", headers=rights), "nothing")
    await client.ask("unload_model", "rows_INT8", headers=rights)
    assert not await client.ask("is_model_ready", "rows_INT8")
    one = [client.input("x0", np.zeros((1, 2, 3), dtype=np.int8), "INT8")]
    await refused(client.ask("infer", "rows_INT8", one), "an operator has unloaded it")
    await client.ask("load_model", "rows_INT8", headers=rights)
    assert await client.ask("is_model_ready", "rows_INT8")
    await client.ask("infer", "rows_INT8", one)


async def errors(client):
    inputs, _, _ = two_inputs(client)
    await refused(client.ask("infer", "nothing", inputs), "nothing")
    await refused(client.ask("infer", "two", inputs, model_version="7"), "7")
    await refused(client.ask("infer", "two", inputs[:1]), 'the input "t" is missing')
    wrong = client.input("t", np.zeros((2,), dtype=np.int32), "INT32")
    await refused(client.ask("infer", "two", [inputs[0], wrong]), "int32[2], expected int64[n]")
    await refused(client.ask("infer", "two", inputs, outputs=[client.output("other")]), '"other"', "doubled, negated")
    await refused(client.ask("infer", "two", inputs, sequence_id=5, sequence_start=True), "the server keeps no state between requests")
    await refused(client.ask("infer", "two", inputs, priority=9), "priority")


async def deadlines(client):
    rows = np.ones((1, 1), dtype=np.float32)
    inputs = [client.input("x", rows, "FP32")]
    began = time.monotonic()
    expected = ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE") if client.is_grpc else ("504", "503")
    await refused_with(client.ask("infer", "slow", inputs, timeout=5_000), *expected)
    if client.is_grpc:
        # The client's own deadline, which gRPC tells the server.
        await refused_with(client.ask("infer", "slow", inputs, client_timeout=0.005), *expected)
    assert time.monotonic() - began < 15
    await client.ask("infer", "slow", inputs)


async def main(kind, address, token):
    client = Client(kind, address)
    checks = [health_and_metadata, inference, columns, statistics, errors, deadlines]
    for check in checks:
        await check(client)
        print(f"{kind} {check.__name__}: ok")
    await repository(client, token)
    print(f"{kind} repository: ok")
    if kind == "http":
        inputs, a, _ = two_inputs(client)
        pending = [client.client.async_infer("two", inputs) for _ in range(16)]
        assert all(np.array_equal(one.get_result().as_numpy("doubled"), a + a) for one in pending)
        for algorithm in ("gzip",):
            answer = client.client.infer("two", inputs, request_compression_algorithm=algorithm,
                                         response_compression_algorithm=algorithm)
            assert np.array_equal(answer.as_numpy("doubled"), a + a)
        print(f"{kind} async_infer and compression: ok")
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
