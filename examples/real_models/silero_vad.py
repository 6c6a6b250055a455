#!/usr/bin/env python3
"""silero-vad (`pip install silero-vad onnxruntime`): speech in sound, from its own ONNX file, compared with the package.

Sixteen streams at the same time. The client of a stream sends each part of it as a WAV file, together with the state that the
last answer returned, so any server of a group can answer, and parts of different streams share a run. The probabilities and
the state after the last part have to be those of the package, which keeps the state of a stream itself.
"""

import io
import struct
import sys
import threading
import wave
from pathlib import Path

OWN_FOLDER = sys.path.pop(0)
import numpy as np  # noqa: E402
import silero_vad  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, OWN_FOLDER)
from server import Comparison, Server, encoded  # noqa: E402

RATE, SAMPLES, CONTEXT = 16_000, 512, 64
STREAMS, PARTS = 16, 24


def voice(stream):
    """A stream as integers of 16 bits: pulses of a voice through resonances of vowels, with pauses and noise."""
    random = np.random.default_rng(stream)
    count = SAMPLES * PARTS
    pitch = 100 + 8 * stream + 15 * np.sin(np.arange(count) / RATE * 2 * np.pi * 3)
    sound = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0)
    for frequency, width in [(500 + 20 * stream, 80), (1_400 - 30 * stream, 100), (2_500, 140)]:
        radius = np.exp(-np.pi * width / RATE)
        first, second = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -(radius**2)
        out = np.zeros(count + 2)
        for at in range(count):
            out[at] = sound[at] + first * out[at - 1] + second * out[at - 2]
        sound = out[:count]
    is_spoken = (np.arange(count) // 3_000 + stream) % 3 > 0
    sound = sound / np.abs(sound).max() * is_spoken + random.normal(0, 0.003, count)
    return np.clip(sound * 20_000, -32_768, 32_767).astype(np.int16)


def wav(samples):
    file = io.BytesIO()
    with wave.open(file, "wb") as opened:
        opened.setnchannels(1), opened.setsampwidth(2), opened.setframerate(RATE)
        opened.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()


def listen(server, sound):
    """Returns the probabilities of a stream's parts, and its state after them."""
    state, probabilities = np.zeros((2, 128)).tolist(), []
    padded = np.concatenate([np.zeros(CONTEXT, np.int16), sound])
    for start in range(0, len(sound), SAMPLES):
        part = padded[start : start + CONTEXT + SAMPLES]
        [answer] = server.predict([{"input": encoded(wav(part)), "state": state}])
        probabilities.append(answer["output"][0])
        state = answer["stateN"]
    return probabilities, state


def expected(sound):
    model = silero_vad.load_silero_vad(onnx=True)
    samples = torch.from_numpy(sound.astype(np.float32) / 32_768)
    probabilities = [model(part, RATE).item() for part in samples.split(SAMPLES)]
    return probabilities, model._state[:, 0].numpy()


def main():
    comparison, sounds, found = Comparison(1e-6), [voice(stream) for stream in range(STREAMS)], [None] * STREAMS
    with Server("silero_vad", Path(silero_vad.__file__).parent / "data" / "silero_vad.onnx") as server:

        def run(stream):
            found[stream] = listen(server, sounds[stream])

        threads = [threading.Thread(target=run, args=(stream,)) for stream in range(STREAMS)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    for stream, (sound, result) in enumerate(zip(sounds, found)):
        if result is None:
            comparison.note(f"stream {stream}", "no answer", False)
            continue
        probabilities, state = expected(sound)
        case = f"stream {stream}, {PARTS} parts of probability {min(probabilities):.3f} to {max(probabilities):.3f}"
        comparison.difference(case, np.abs(np.subtract(result[0], probabilities)).max())
        comparison.difference(f"stream {stream}, state", np.abs(np.subtract(result[1], state)).max())
    comparison.finish()


if __name__ == "__main__":
    main()
