"""Sends the streams of streams.json chunk by chunk, all at the same time, and compares the answers.

    leeway add models/detector --onnx detector.onnx && leeway serve
    python client.py http://127.0.0.1:8080/v1/models/detector:predict
"""

import concurrent.futures
import json
import pathlib
import sys
import urllib.request

URL = sys.argv[1]
STATE = [[0.0] * 6]


def ask(instance):
    body = json.dumps({"instances": [instance]}).encode()
    request = urllib.request.Request(URL, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["predictions"][0]


def listen(stream):
    """Returns the probability after each chunk. The state of each answer goes into the next request."""
    h = c = STATE
    probabilities = []
    for chunk in stream["chunks"]:
        answer = ask({"samples": chunk, "h": h, "c": c})
        h, c = answer["next_h"], answer["next_c"]
        probabilities.append(answer["probability"][0])
    return probabilities


streams = json.loads((pathlib.Path(__file__).parent / "streams.json").read_text())
with concurrent.futures.ThreadPoolExecutor(len(streams)) as threads:
    answers = list(threads.map(listen, streams))
difference = max(
    abs(found - expected)
    for stream, probabilities in zip(streams, answers)
    for found, expected in zip(probabilities, stream["probabilities"], strict=True)
)
print(f"{len(streams)} streams, {sum(map(len, answers))} chunks: largest difference {difference:.1e}")
sys.exit(difference > 1e-5)
