"""KServe's own client for inferences, over REST (v1 and v2) and gRPC.

`python kserve_sdk.py HTTP_ADDRESS [GRPC_ADDRESS]`
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


def request(model, binary=False):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    t = np.array([5, -7], dtype=np.int64)
    inputs = [InferInput("a", [2, 3], "FP32"), InferInput("t", [2], "INT64")]
    inputs[0].set_data_from_numpy(a, binary_data=binary)
    inputs[1].set_data_from_numpy(t, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=inputs, request_id="the-id"), a, t


def check(response, a, t):
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    assert np.array_equal(outputs["doubled"], a + a), outputs
    assert np.array_equal(outputs["negated"], -t), outputs
    assert response.id == "the-id", response.id


async def refused(awaitable, text):
    try:
        await awaitable
    except Exception as error:
        assert text in str(error), error
        return
    raise AssertionError("it was not refused")


async def v2(url):
    async with InferenceRESTClient(RESTConfig(protocol="v2", verbose=False)) as client:
        assert await client.is_server_live(url) and await client.is_server_ready(url)
        assert await client.is_model_ready(url, "two") and not await client.is_model_ready(url, "nothing")
        for binary in (False, True):
            infer, a, t = request("two", binary)
            check(await client.infer(url, infer, model_name="two"), a, t)
        infer, _, _ = request("nothing")
        await refused(client.infer(url, infer, model_name="nothing"), "nothing")
    print("kserve v2: ok")


async def v1(url):
    async with InferenceRESTClient(RESTConfig(protocol="v1", verbose=False)) as client:
        assert await client.is_model_ready(url, "two")
        answer = await client.infer(url, {"instances": [{"a": [1, 2, 3], "t": 4}]}, model_name="two")
        assert answer["predictions"] == [{"doubled": [2.0, 4.0, 6.0], "negated": -4}], answer
        await refused(client.infer(url, {"instances": []}, model_name="two"), "empty")
    print("kserve v1: ok")


async def grpc(address):
    async with InferenceGRPCClient(address) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("two")
        infer, a, t = request("two")
        check(await client.infer(infer), a, t)
        infer, _, _ = request("nothing")
        await refused(client.infer(infer), "nothing")
    print("kserve grpc: ok")


async def main(http_address, grpc_address=None):
    await v2(f"http://{http_address}")
    await v1(f"http://{http_address}")
    if grpc_address:
        await grpc(grpc_address)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
