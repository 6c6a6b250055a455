"""The cases of ONNX's own test suites (the `onnx` package): their values, as ONNX Runtime in Python takes and answers them, and
as JSON.

A value is a numpy array (with the types of ml_dtypes for bfloat16, float8 and integers below 8 bits), a list of values (a
sequence), or None (an empty optional). A case has one or more data sets: the inputs by name, and the outputs of the reference
implementation. `in_onnxruntime` runs a case.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

SUITES = ("node", "simple", "pytorch-converted", "pytorch-operator")
# Element types that ONNX Runtime in Python cannot exchange as numpy arrays, by the beginning of ONNX's names.
NOT_OF_NUMPY = ("bfloat16", "float8", "float4", "int4", "uint4", "int2", "uint2")
NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass
class DataSet:
    inputs: dict
    reference: dict
    # What ONNX Runtime in Python answers, by output name.
    answer: dict = field(default_factory=dict)


@dataclass
class Case:
    suite: str
    name: str
    # Name as a model: names of cases may be too long for one.
    model_name: str
    model: Path
    rtol: float
    atol: float
    sets: list
    # Names of the inputs that a caller must give: an initializer of an old model may be an input, too.
    required: list
    inputs: dict = field(default_factory=dict)
    outputs: dict = field(default_factory=dict)
    # Why ONNX Runtime in Python does not run it, if it does not.
    problem: str = ""

    @property
    def is_of_tensors(self):
        return all(kind.startswith("tensor(") for kind in [*self.inputs.values(), *self.outputs.values()])

    @property
    def equals_reference(self):
        return all(
            differs(one.answer[name], value, self.rtol, self.atol) is None
            for one in self.sets for name, value in one.reference.items()
        )


# ===== values in protobuf =====


def read_value(path, kind):
    """A value of a data set, in the type that the model declares for it."""
    message = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}.get(kind, onnx.TensorProto)()
    message.ParseFromString(path.read_bytes())
    if kind == "sequence_type":
        return numpy_helper.to_list(message)
    if kind == "optional_type":
        return numpy_helper.to_optional(message)
    return to_array(message)


def to_array(tensor):
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind not in "OSU":
        return array
    return np.array([as_text(text) for text in array.ravel()], dtype=object).reshape(array.shape)


def as_text(text):
    return text.decode() if isinstance(text, bytes) else str(text)


def cases(suite):
    """All cases of a suite, sorted by name, with their data sets."""
    for number, test in enumerate(sorted(load_model_tests(kind=suite), key=lambda test: test.name)):
        folder = Path(test.model_dir)
        graph = onnx.load(folder / "model.onnx").graph
        constants = {constant.name for constant in graph.initializer}
        sets = []
        for data in sorted(folder.glob("test_data_set_*")):
            read = lambda which, values: {  # noqa: E731
                value.name: read_value(data / f"{which}_{place}.pb", value.type.WhichOneof("value"))
                for place, value in enumerate(values) if (data / f"{which}_{place}.pb").exists()
            }
            sets.append(DataSet(read("input", graph.input), read("output", graph.output)))
        required = [value.name for value in graph.input if value.name not in constants]
        yield Case(suite, test.name, f"{suite}-{number}", folder / "model.onnx", test.rtol, test.atol, sets, required)


# ===== ONNX Runtime in Python =====


def in_onnxruntime(case):
    """Runs a case, and writes down the declared types, the answers, and why it could not be run if it could not."""
    try:
        session = open_session(case.model)
        case.inputs = {value.name: value.type for value in session.get_inputs()}
        case.outputs = {value.name: value.type for value in session.get_outputs()}
        for one in case.sets:
            one.answer = run(session, one.inputs)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime has one class for each of its codes, without a common base
        case.problem = str(error) or type(error).__name__


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """Runs a session; also with types that numpy does not have."""
    names = [value.name for value in session.get_outputs()]
    kinds = [value.type for value in [*session.get_inputs(), *session.get_outputs()]]
    if not any(kind.startswith(tuple(f"tensor({name}" for name in NOT_OF_NUMPY)) for kind in kinds):
        return {name: plain(value) for name, value in zip(names, session.run(names, inputs))}
    # ONNX Runtime does not copy what it is given here: it has to live until the run is over.
    kept = {name: as_ort_value(array) for name, array in inputs.items()}
    answers = session.run_with_ort_values(names, {name: value for name, (value, _) in kept.items()})
    return {name: from_ort_value(value) for name, value in zip(names, answers)}


def plain(value):
    """Scalars of ONNX Runtime in Python are arrays here."""
    if value is None or isinstance(value, list):
        return value and [plain(one) for one in value]
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array


def as_ort_value(array):
    """An OrtValue, and the memory that it is in. Small integers are packed, as in a TensorProto."""
    if array.dtype == object:
        raise TypeError("ONNX Runtime in Python takes no strings beside this type")
    message = numpy_helper.from_array(array)
    content = np.frombuffer(message.raw_data, np.uint8)
    memory = np.zeros(array.shape, np.dtype(f"u{array.dtype.itemsize}"))
    memory.reshape(-1).view(np.uint8)[: content.size] = content
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(memory, message.data_type), memory


def from_ort_value(value):
    if value.data_type() == "tensor(string)":
        return plain(value.numpy())
    message = onnx.TensorProto(
        data_type=value.element_type(), dims=value.shape(), raw_data=ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    )
    return numpy_helper.to_array(message)


# ===== values compared =====


def differs(found, expected, rtol, atol):
    """How a value differs from the expected one, or None; as ONNX's own runner of these cases compares."""
    if expected is None or isinstance(expected, list):
        if (found is None) != (expected is None) or found is not None and not isinstance(found, list):
            return "is no sequence, or no empty optional"
        if expected is None:
            return None
        if len(found) != len(expected):
            return f"has {len(found)} elements, expected {len(expected)}"
        return next((how for one, two in zip(found, expected) if (how := differs(one, two, rtol, atol))), None)
    if not isinstance(found, np.ndarray):
        return "is no tensor"
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return f"is {found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if found.dtype == object:
        return None if np.array_equal(found, expected) else "has other strings"
    if found.dtype.kind not in "fVc" or found.dtype.names:
        return None if np.array_equal(found, expected) else "has other values"
    wide = np.complex128 if found.dtype.kind == "c" else np.float64
    is_close = np.isclose(found.astype(wide), expected.astype(wide), rtol=rtol, atol=atol, equal_nan=True)
    return None if is_close.all() else f"has {np.count_nonzero(~is_close)} of {is_close.size} other values"


def is_identical(found, expected):
    """Equal bit for bit; NaN is NaN."""
    if differs(found, expected, 0, 0) is not None:
        return False
    if isinstance(expected, list):
        return all(is_identical(one, two) for one, two in zip(found, expected))
    if expected is None or expected.dtype.kind not in "fV":
        return True
    return np.array_equal(np.signbit(found), np.signbit(expected)) or bool(np.isnan(expected.astype(np.float64)).any())


# ===== values as JSON =====


def to_json(value):
    """Nested arrays. NaN and infinity are texts; a sequence is an array of tensors, and an empty optional null."""
    if value is None:
        return None
    if isinstance(value, list):
        return [to_json(one) for one in value]
    if value.dtype.kind in "biuO":
        return value.tolist()
    if value.dtype.kind == "c":
        raise TypeError("JSON has no complex numbers")
    if value.dtype.name.startswith(("int", "uint")):
        return value.astype(np.int64).tolist()
    if value.dtype == np.float32:
        # The shortest text that is this float32, and no other.
        value = np.array([float(str(element)) for element in value.ravel()]).reshape(value.shape)
    return finite_or_text(value.astype(np.float64).tolist())


def finite_or_text(value):
    if isinstance(value, list):
        return [finite_or_text(one) for one in value]
    if value != value:
        return "NaN"
    return value if abs(value) != float("inf") else "Infinity" if value > 0 else "-Infinity"


class NotAsExpected(Exception):
    """An answer has another form than the expected value."""


def from_json(answer, expected):
    """Reads an answer into the form of the expected value. JSON does not say how long the parts of an empty array are."""
    if expected is None:
        if answer is not None:
            raise NotAsExpected("is not null")
        return None
    if isinstance(expected, list):
        if not isinstance(answer, list) or len(answer) != len(expected):
            raise NotAsExpected(f"is no sequence of {len(expected)} tensors")
        return [from_json(one, two) for one, two in zip(answer, expected)]
    elements = []
    collect(answer, expected.shape, (), elements)
    read = [element_from_json(element, expected.dtype) for element in elements]
    if expected.dtype.kind in "biuO":
        return np.array(read, dtype=expected.dtype).reshape(expected.shape)
    wide = np.int64 if expected.dtype.name.startswith(("int", "uint")) else np.float64
    return np.array(read, dtype=wide).astype(expected.dtype).reshape(expected.shape)


def collect(answer, shape, place, elements):
    if not shape:
        if isinstance(answer, list):
            raise NotAsExpected(f"has an array at {list(place)}, expected an element")
        elements.append(answer)
        return
    if not isinstance(answer, list) or len(answer) != shape[0]:
        raise NotAsExpected(f"has no array of {shape[0]} at {list(place)}")
    for index, part in enumerate(answer):
        collect(part, shape[1:], (*place, index), elements)


def element_from_json(element, dtype):
    if dtype.kind == "b":
        fits = isinstance(element, bool)
    elif dtype.kind == "O":
        fits = isinstance(element, str)
    elif dtype.kind in "iu" or dtype.name.startswith(("int", "uint")):
        fits = isinstance(element, int) and not isinstance(element, bool)
    else:
        element = NOT_FINITE.get(element, element) if isinstance(element, str) else element
        fits = isinstance(element, (int, float)) and not isinstance(element, bool)
    if not fits:
        raise NotAsExpected(f"has {element!r}, expected {dtype}")
    return element
