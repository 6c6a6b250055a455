#!/usr/bin/env python3
"""Writes short recordings as WAV and FLAC files into tests/data/audio, what soundfile and torchaudio make of them
(cases.json), and a model that is asked with a recording and its own state (listener.onnx), with its answers (listener.json).

Run by hand in an environment of its own; the products are committed:

    python3 -m venv .venv-sounds
    .venv-sounds/bin/pip install numpy==2.4.6 soundfile==0.14.0 torch==2.15.0 torchaudio==2.11.0 onnx==1.23.2 onnxruntime==1.32.0
    .venv-sounds/bin/python tests/data/make_sounds.py

A recording is what soundfile reads as float64, the mean of its channels, resampled by torchaudio with its defaults and in double
precision.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import soundfile
import torch

# torchaudio compares its version of CUDA with that of torch, though nothing here uses it.
torch.version.cuda = None
from torchaudio.functional import resample  # noqa: E402

OUT = Path(__file__).resolve().parent / "audio"
RATE = 16_000


def recording(rate, channels, seconds=0.03):
    """A rising tone and noise, another one in each channel."""
    random = np.random.default_rng(20)
    time = np.arange(int(rate * seconds)) / rate
    columns = []
    for channel in range(channels):
        tone = np.sin(2 * np.pi * (300 + 200 * channel + 20_000 * time) * time)
        columns.append(0.6 * tone + random.normal(0, 0.05, len(time)))
    return np.stack(columns, axis=1)


CASES = [
    ("mono16.wav", "WAV", "PCM_16", 16_000, 1),
    ("stereo16.wav", "WAV", "PCM_16", 44_100, 2),
    ("mono24.wav", "WAV", "PCM_24", 48_000, 1),
    ("extensible24.wav", "WAVEX", "PCM_24", 22_050, 3),
    ("mono8.wav", "WAV", "PCM_U8", 8_000, 1),
    ("mono32.wav", "WAV", "PCM_32", 11_025, 1),
    ("stereo_float.wav", "WAV", "FLOAT", 22_050, 2),
    ("mono_double.wav", "WAV", "DOUBLE", 16_000, 1),
    ("stereo16.flac", "FLAC", "PCM_16", 44_100, 2),
    ("mono24.flac", "FLAC", "PCM_24", 48_000, 1),
    ("mono8.flac", "FLAC", "PCM_S8", 8_000, 1),
]


def sounds():
    cases = []
    for name, format, subtype, rate, channels in CASES:
        path = OUT / name
        with soundfile.SoundFile(path, "w", rate, channels, subtype, format=format) as file:
            if format == "FLAC":
                file.title = "A text beside the sound"
            file.write(recording(rate, channels))
        samples, read_rate = soundfile.read(path, always_2d=True)
        assert read_rate == rate
        # In single precision, torchaudio rounds the phases of its filter, and is off by up to 3e-6.
        expected = resample(torch.from_numpy(samples.mean(axis=1)), rate, RATE)
        cases.append({"file": name, "expected": [round(float(value), 8) for value in expected]})
    write_json("cases.json", cases)
    # Two minutes in a few bytes.
    soundfile.write(OUT / "silence.flac", np.zeros(120 * 8_000), 8_000, "PCM_16", format="FLAC")


def write_json(name, value):
    (OUT / name).write_text(json.dumps(value) + "\n")


def listener():
    """A model of sound with a state: the mean square of the sound and of the state make the answer and the next state."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Mul", ["sound", "sound"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "axis"], ["power"], keepdims=1),
        helper.make_node("ReduceMean", ["state", "both"], ["before"], keepdims=0),
        helper.make_node("Unsqueeze", ["before", "axis"], ["before_column"]),
        helper.make_node("Add", ["power", "before_column"], ["level"]),
        helper.make_node("Mul", ["state", "half"], ["half_state"]),
        helper.make_node("Unsqueeze", ["power", "axis"], ["power_cube"]),
        helper.make_node("Add", ["half_state", "power_cube"], ["next_state"]),
    ]
    tensor = onnx.numpy_helper.from_array
    graph = helper.make_graph(
        nodes,
        "listener",
        [
            helper.make_tensor_value_info("sound", float32, ["rows", "samples"]),
            helper.make_tensor_value_info("state", float32, ["rows", 2, 3]),
        ],
        [
            helper.make_tensor_value_info("level", float32, ["rows", 1]),
            helper.make_tensor_value_info("next_state", float32, ["rows", 2, 3]),
        ],
        [
            tensor(np.array([1]), "axis"),
            tensor(np.array([1, 2]), "both"),
            tensor(np.array(0.5, np.float32), "half"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, OUT / "listener.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString())
    streams = []
    for stream in range(4):
        sound = recording(RATE, 4, 0.128)[:, stream] * (stream + 1) / 4
        state, chunks = np.zeros((1, 2, 3), np.float32), []
        for chunk in sound.reshape(4, 512):
            file = io.BytesIO()
            soundfile.write(file, chunk, RATE, "PCM_16", format="WAV")
            read, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")
            level, state = session.run(None, {"sound": read[None], "state": state})
            chunks.append({"wav": base64.b64encode(file.getvalue()).decode(), "level": float(level[0, 0])})
        streams.append({"chunks": chunks, "state": state[0].tolist()})
    write_json("listener.json", streams)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    sounds()
    listener()
