"""Mutated model files, for `make bench-mutants` (scripts/bench_mutants.py).

Takes the committed models and changes their structure: where their weights are, shapes, names, nesting, the encoding itself.
The same seed makes the same files. Needs the `onnx` package of models/requirements.txt.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import AttributeProto, TensorProto
from onnx import helper as h

ROOT = Path(__file__).resolve().parent.parent
MODEL = "model.onnx"

# Models that were made to end a process, or never to end: tests/leeway/crash.rs and isolation.rs have them.
MADE_TO_CRASH = {"crash", "endless", "hungry", "bomb", "repeated"}
MAX_BASE_BYTES = 1_000_000


@dataclass
class Mutant:
    """A version: its files by their path within it (bytes, or the target of a symbolic link)."""

    family: str
    what: str
    files: dict[str, bytes | str] = field(default_factory=dict)


def bases():
    """The committed models, smallest first, without those that are too large to be mutated often."""
    found = [*ROOT.glob("tests/data/*/*.onnx"), *ROOT.glob("tests/data/*/*/*.onnx"), *ROOT.glob("models/*/*/model.onnx")]
    sizes = {path: path.stat().st_size for path in found if path.stem not in MADE_TO_CRASH}
    return sorted((path for path, size in sizes.items() if size <= MAX_BASE_BYTES), key=lambda path: (sizes[path], path))


def files_beside(path):
    """The files that keep the weights of a committed model."""
    beside = {"external": ("weights.bin", "Cargo.toml"), "plus_5_external": ("plus_5.onnx.data", "plus_5.onnx.data")}
    names = beside.get(path.parent.name) or beside.get(path.stem)
    return {names[1]: (path.parent / names[0]).read_bytes()} if names else {}


def messages(message: Message, kind):
    """All messages of a kind within a message, at any depth."""
    if isinstance(message, kind):
        yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for inner in value if descriptor.is_repeated else [value]:
            yield from messages(inner, kind)


# ===== external data =====

WEIGHTS = bytes(range(256)) * 4


def locations(outside: Path):
    """Where external data may claim to be: the entries of a tensor, and the files that the version has for it."""
    at = lambda location, **more: [("location", location), *((key, str(value)) for key, value in more.items())]
    plain = {"weights.bin": WEIGHTS}
    marker = "*/_ORT_MEM_ADDR_/*"
    return {
        "own file": (at("weights.bin", offset=0, length=8), plain),
        "own file, nothing but its name": (at("weights.bin"), plain),
        "own file in a folder": (at("inner/weights.bin", length=8), {"inner/weights.bin": WEIGHTS}),
        "file of the working directory": (at("secret.txt", length=8), {}),
        "file of the working directory, a dummy of that name": (at("secret.txt", length=8), {"secret.txt": b"x"}),
        "file of the working directory, an own one of that name": (at("secret.txt", length=8), {"secret.txt": WEIGHTS}),
        "above the working directory": (at("../secret.txt", length=8), {}),
        "far above": (at("../" * 12 + str(outside).lstrip("/") + "/secret.txt"), {}),
        "by way of a folder": (at("inner/../../secret.txt"), {"inner/weights.bin": WEIGHTS}),
        "with a dot": (at("./weights.bin", length=8), plain),
        "with two slashes": (at("inner//weights.bin"), {"inner/weights.bin": WEIGHTS}),
        "absolute": (at(f"{outside}/secret.txt", length=8), {}),
        "file: URL": (at(f"file://{outside}/secret.txt"), {}),
        "environment": (at("/proc/self/environ"), {}),
        "memory of the process": (at("/proc/self/mem", offset=4096, length=8), {}),
        "symbolic link out": (at("link", length=8), {"link": f"{outside}/secret.txt"}),
        "symbolic link within": (at("link", length=8), {"link": "weights.bin", **plain}),
        "folder is a symbolic link out": (at("folder/secret.txt", length=8), {"folder": str(outside)}),
        "manifest": (at("version.toml", length=8), {}),
        "the model itself": (at(MODEL, length=8), {}),
        "empty": (at(""), {}),
        "long": (at("w" * 100_000), {}),
        "NUL within": (at("weights.bin\0.txt", length=8), plain),
        "ESC within": (at("weights\x1b[31m.bin"), {}),
        "backslash": (at("..\\secret.txt"), {}),
        "marker of memory": (at(marker, offset=140_000_000_000_000, length=8), {}),
        "marker of memory, a file of that name": (at(marker, offset=64, length=8), {marker: WEIGHTS}),
        "older marker of memory": (at("/_ORT_MEM_ADDR_", offset=4096, length=8), {}),
        "two locations": ([*at("weights.bin", length=8), ("location", "secret.txt")], plain),
        "two locations, the other way": ([("location", "secret.txt"), *at("weights.bin", length=8)], plain),
        "key in capitals": ([("Location", "secret.txt"), ("length", "8")], {}),
        "no location": ([("offset", "0"), ("length", "8")], {}),
        "unknown key": (at("weights.bin", length=8, checksum="0" * 40), plain),
        "no entries": ([], {}),
        "offset beyond the end": (at("weights.bin", offset=1 << 20, length=8), plain),
        "offset that overflows": (at("weights.bin", offset=(1 << 64) - 4, length=8), plain),
        "negative offset": (at("weights.bin", offset=-8, length=8), plain),
        "length beyond the end": (at("weights.bin", length=1 << 40), plain),
        "length of nothing": (at("weights.bin", length=0), plain),
        "odd numbers": (at("weights.bin", offset=" 0x10", length="+8"), plain),
    }


def external(entries, dims=(2,), of=TensorProto.FLOAT, name="outside"):
    tensor = TensorProto(name=name, data_type=of, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries:
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse(values, indices=None):
    return onnx.SparseTensorProto(values=values, indices=indices or h.make_tensor("at", TensorProto.INT64, [2], [0, 1]), dims=[2])


def constant(tensor, attribute="value"):
    return h.make_node("Constant", [], ["unused"], **{attribute: tensor})


def branches(inner):
    """A node with two branches, which are this graph."""
    return h.make_node("If", ["unused_condition"], ["unused_too"], then_branch=inner, else_branch=inner)


def graph_of(nodes, initializers=(), sparse_initializers=()):
    out = h.make_tensor_value_info("unused", TensorProto.FLOAT, [2])
    return h.make_graph(list(nodes), "inner", [], [out], list(initializers), sparse_initializer=list(sparse_initializers))


def attribute(**fields):
    return AttributeProto(name="more", **fields)


def place_initializer(model, entries):
    model.graph.initializer.append(external(entries))


def place_sparse(model, entries):
    model.graph.sparse_initializer.append(sparse(external(entries)))


def place_sparse_indices(model, entries):
    values = h.make_tensor("unused", TensorProto.FLOAT, [1], [1.0])
    model.graph.sparse_initializer.append(sparse(values, external(entries, (1,), TensorProto.INT64)))


def place_constant(model, entries):
    model.graph.node.append(constant(external(entries)))


def place_sparse_constant(model, entries):
    model.graph.node.append(constant(sparse(external(entries)), "sparse_value"))


def place_branch(model, entries):
    model.graph.node.append(branches(graph_of([], [external(entries, name="unused")])))


def place_nested_branch(model, entries):
    inner = graph_of([branches(graph_of([constant(external(entries))])), h.make_node("Identity", ["unused_too"], ["unused"])])
    model.graph.node.append(branches(inner))


def place_sparse_branch(model, entries):
    model.graph.node.append(branches(graph_of([], [], [sparse(external(entries, name="unused"))])))


def place_loop(model, entries):
    body = graph_of([constant(external(entries))])
    model.graph.node.append(h.make_node("Loop", ["", ""], ["unused_too"], body=body))


def place_scan(model, entries):
    body = graph_of([constant(external(entries))])
    model.graph.node.append(h.make_node("Scan", [], ["unused_too"], body=body, num_scan_inputs=0))


def place_tensors(model, entries):
    node = h.make_node("Unknown", [], ["unused"], domain="some.where")
    node.attribute.append(attribute(type=AttributeProto.TENSORS, tensors=[external(entries)]))
    model.graph.node.append(node)


def place_graphs(model, entries):
    node = h.make_node("Unknown", [], ["unused"], domain="some.where")
    node.attribute.append(attribute(type=AttributeProto.GRAPHS, graphs=[graph_of([constant(external(entries))])]))
    node.attribute.append(attribute(type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse(external(entries))]))
    model.graph.node.append(node)


def place_odd_attribute(model, entries):
    """A tensor in an attribute that says it is a number, at a node that takes none."""
    node = model.graph.node[0]
    node.attribute.append(AttributeProto(name="odd", type=AttributeProto.FLOAT, t=external(entries), g=graph_of([], [external(entries)])))


def place_function(model, entries):
    body = [constant(external(entries)), h.make_node("Identity", ["unused"], ["out"])]
    function = h.make_function("own", "Weight", [], ["out"], body, [h.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(h.make_opsetid("own", 1))
    model.graph.node.append(h.make_node("Weight", [], ["unused"], domain="own"))


def place_function_default(model, entries):
    place_function(model, [("location", "weights.bin")])
    model.functions[-1].attribute_proto.append(h.make_attribute("value", external(entries)))


def place_training(model, entries):
    info = model.training_info.add()
    info.initialization.CopyFrom(graph_of([], [external(entries)]))
    info.algorithm.CopyFrom(graph_of([constant(external(entries))]))


def place_shape_of_reshape(model, entries):
    """A weight that decides on a shape is looked at while the model is opened."""
    model.graph.initializer.append(external(entries, (1,), TensorProto.INT64, "unused_shape"))
    model.graph.node.append(h.make_node("ConstantOfShape", ["unused_shape"], ["unused"]))


def place_output(model, entries):
    """A weight that is an output: it is not optimised away."""
    model.graph.initializer.append(external(entries))
    model.graph.output.append(h.make_tensor_value_info("outside", TensorProto.FLOAT, [2]))


PLACES = [value for name, value in sorted(globals().items()) if name.startswith("place_")]


def mutate_external(rng, paths, outside, number):
    """Every place meets every location in turn; half of them in models that need the weight for their answers."""
    kinds = list(locations(outside).items())
    what, (entries, files) = kinds[number % len(kinds)]
    in_use = number // len(kinds) % 2 == 0
    if in_use:
        path = rng.choice([path for path in paths if path.parent.name == "external" and not path.stem.startswith("wrong")])
        model = onnx.load(path, load_external_data=False)
        for tensor in messages(model, TensorProto):
            if tensor.data_location == TensorProto.EXTERNAL:
                del tensor.external_data[:]
                tensor.external_data.extend(external(entries).external_data)
        where = path.stem
    else:
        place = PLACES[(number + number // len(kinds)) % len(PLACES)]
        path = rng.choice([path for path in paths if path.parent.name in ("models", "rows", "classes")])
        model = onnx.load(path, load_external_data=False)
        place(model, entries)
        files = {**files_beside(path), **files}
        where = place.__name__.removeprefix("place_") + " of " + path.stem
    return Mutant("external data", f"{where}: {what}", {MODEL: model.SerializeToString(), **files})


# ===== shapes and names =====

SHAPES = [[-1], [0], [2**31], [2**62], [2**62, 2**62], [-(2**63)], [1] * 5000, [0, -1, 2**40], [], [2**31 - 1, 2]]


def mutate_shape(rng, paths, outside, number):
    path = rng.choice(paths)
    model = onnx.load(path, load_external_data=False)
    shape = SHAPES[number % len(SHAPES)]
    tensors = list(messages(model.graph, TensorProto))
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    if tensors and rng.random() < 0.5:
        rng.choice(tensors).dims[:] = shape
        where = "a weight"
    else:
        value = rng.choice(values)
        of = value.type.tensor_type.elem_type or TensorProto.FLOAT
        value.type.CopyFrom(h.make_tensor_type_proto(of, shape))
        where = "a value"
    return Mutant("shapes", f"{path.stem}: {where} {str(shape)[:40]}", {MODEL: model.SerializeToString(), **files_beside(path)})


NAMES = {
    "empty": "", "1 MB": "n" * 1_000_000, "ESC": "\x1b[31mred\x1b[0m\n", "NUL": "a\0b", "path": "../secret.txt",
    "right to left": "\u202eabc", "quotes": "\"'`{}\\",
}


def mutate_name(rng, paths, outside, number):
    path = rng.choice(paths)
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    kinds = [*NAMES, "duplicate"]
    kind = kinds[number % len(kinds)]
    targets = [("input", graph.input), ("output", graph.output), ("node", graph.node), ("initializer", graph.initializer)]
    what, of = rng.choice([(what, of) for what, of in targets if of])
    chosen = rng.choice(list(of))
    if kind == "duplicate":
        of.add().CopyFrom(chosen)
    else:
        before, chosen.name = chosen.name, NAMES[kind]
        # Used under its new name wherever it was used under the old one.
        for node in graph.node if rng.random() < 0.7 and what != "node" else []:
            for names in (node.input, node.output):
                names[:] = [NAMES[kind] if name == before else name for name in names]
    return Mutant("names", f"{path.stem}: {what} {kind}", {MODEL: model.SerializeToString(), **files_beside(path)})


# ===== the encoding =====


def varint(value, length=0):
    """A number, in at least so many bytes."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < length:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(number, content, wire_type=2):
    head = varint(number << 3 | wire_type)
    return head + varint(len(content)) + content if wire_type == 2 else head + content


def split(data):
    """The fields of a message that is well formed: number, wire type, all of it, its content."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        start = at
        key = number()
        length = {0: None, 1: 8, 2: None, 5: 4}[key & 7]
        length = number() if key & 7 == 2 else length
        from_ = at
        if length is None:
            number()
        else:
            at += length
        yield key >> 3, key & 7, data[start:at], data[from_:at]


def edit(data, descriptor, rng, change):
    """Changes one part of a message, anywhere within it."""
    fields = list(split(data))
    inner = [
        (index, descriptor.fields_by_number[number].message_type)
        for index, (number, wire_type, _, _) in enumerate(fields)
        if wire_type == 2 and number in descriptor.fields_by_number and descriptor.fields_by_number[number].message_type
    ]
    if not inner or rng.random() < 0.2:
        return change(data, descriptor, rng)
    index, kind = rng.choice(inner)
    number, _, _, content = fields[index]
    changed = record(number, edit(content, kind, rng, change))
    return b"".join([*(whole for _, _, whole, _ in fields[:index]), changed, *(whole for _, _, whole, _ in fields[index + 1 :])])


def some_field(descriptor, rng, is_message):
    fields = [one for one in descriptor.fields if (one.message_type is not None) == is_message]
    return rng.choice(fields or list(descriptor.fields)).number


HIDDEN = external([("location", "secret.txt"), ("length", "8")]).SerializeToString()

ENCODINGS = {
    "unknown number": lambda data, of, rng: data + record(3000, varint(2**64 - 1), 0),
    "unknown fixed": lambda data, of, rng: data + record(3000, bytes(8), 1) + record(3001, bytes(4), 5),
    "unknown bytes": lambda data, of, rng: record(3000, bytes(1000)) + data,
    "wrong wire type": lambda data, of, rng: data + record(some_field(of, rng, True), varint(1), 0),
    "number as bytes": lambda data, of, rng: data + record(some_field(of, rng, False), b"\x01\x02"),
    "fixed for bytes": lambda data, of, rng: data + record(some_field(of, rng, False), bytes(4), 5),
    "group in place of a message": lambda data, of, rng: data
    + (lambda n: varint(n << 3 | 3) + HIDDEN + varint(n << 3 | 4))(some_field(of, rng, True)),
    "unknown group": lambda data, of, rng: data + varint(3000 << 3 | 3) + HIDDEN + varint(3000 << 3 | 4),
    "group without end": lambda data, of, rng: data + varint(3000 << 3 | 3) + HIDDEN,
    "end of no group": lambda data, of, rng: data + varint(3000 << 3 | 4),
    "groups in groups": lambda data, of, rng: data + varint(3000 << 3 | 3) * 5000 + varint(3000 << 3 | 4) * 5000,
    "tensor in place of anything": lambda data, of, rng: data + record(some_field(of, rng, True), HIDDEN),
    "part twice": lambda data, of, rng: data + b"".join(whole for _, _, whole, _ in split(data)),
    "long tag": lambda data, of, rng: data + varint(some_field(of, rng, True) << 3 | 2, 5) + varint(len(HIDDEN)) + HIDDEN,
    "too long a tag": lambda data, of, rng: data + varint(some_field(of, rng, True) << 3 | 2, 10) + varint(len(HIDDEN)) + HIDDEN,
    "tag above 32 bits": lambda data, of, rng: data + varint(1 << 35 | 5 << 3 | 2) + varint(len(HIDDEN)) + HIDDEN,
    "long length": lambda data, of, rng: data + varint(5 << 3 | 2) + varint(len(HIDDEN), 9) + HIDDEN,
    "length beyond the end": lambda data, of, rng: data + varint(5 << 3 | 2) + varint(2**31 - 1),
    "length of 64 bits": lambda data, of, rng: data + varint(5 << 3 | 2) + varint(2**64 - 1),
    "tag zero": lambda data, of, rng: data + b"\0" + HIDDEN,
    "wire type 6": lambda data, of, rng: data + varint(5 << 3 | 6),
    "number of 11 bytes": lambda data, of, rng: data + varint(14 << 3) + b"\xff" * 10 + b"\x01",
    "location above 32 bits": lambda data, of, rng: data + record(14, varint(1 << 32 | 1), 0),
    "location that is none": lambda data, of, rng: data + record(14, varint(7), 0),
    "location and no location": lambda data, of, rng: data + record(14, varint(1), 0) + record(14, varint(0), 0),
    "no UTF-8": lambda data, of, rng: data + record(8, b"\xff\xfe\x80"),
}


def mutate_encoding(rng, paths, outside, number):
    what = list(ENCODINGS)[number % len(ENCODINGS)]
    path = rng.choice([path for path in paths if path.stat().st_size < 100_000])
    data = edit(path.read_bytes(), onnx.ModelProto.DESCRIPTOR, rng, ENCODINGS[what])
    return Mutant("encoding", f"{path.stem}: {what}", {MODEL: data, **files_beside(path)})


def mutate_bytes(rng, paths, outside, number):
    path = rng.choice(paths)
    data = bytearray(path.read_bytes())
    if number % 2 == 0:
        del data[rng.randrange(len(data)) :]
        what = f"ends after {len(data)} bytes"
    else:
        flips = rng.randint(1, 8)
        # Where the structure is, not in the midst of weights.
        for _ in range(flips):
            data[rng.choice([rng.randrange(len(data)), -1 - rng.randrange(min(len(data), 400))])] ^= 1 << rng.randrange(8)
        what = f"{flips} bits flipped"
    return Mutant("bytes", f"{path.stem}: {what}", {MODEL: bytes(data), **files_beside(path)})


# ===== nesting =====


def nested(depth, innermost):
    """A graph with `If` in `If`, so many deep, around external data: encoded by hand, as libraries have a limit."""
    graph = graph_of([], [external(innermost, name="unused")]).SerializeToString()
    other = graph_of([h.make_node("Constant", [], ["unused"], value_floats=[1.0, 2.0])])
    for _ in range(depth):
        node = h.make_node("If", ["condition"], ["unused"], else_branch=other).SerializeToString()
        branch = AttributeProto(name="then_branch", type=AttributeProto.GRAPH).SerializeToString() + record(6, graph)
        out = h.make_tensor_value_info("unused", TensorProto.FLOAT, [2]).SerializeToString()
        graph = record(1, node + record(5, branch)) + record(2, b"inner") + record(12, out)
    return graph


def mutate_nesting(rng, paths, outside, number):
    # Of a message in a message there are three a branch: the libraries' limit of 100 is at 33.
    depth = [10, 20, 30, 31, 32, 33, 34, 40, 90, 100, 110, 120, 1000, 3000][number % 14]
    what, (entries, files) = rng.choice(list(locations(outside).items())[:6])
    x = h.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2]).SerializeToString()
    y = h.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2]).SerializeToString()
    condition = h.make_tensor("condition", TensorProto.BOOL, [], [True]).SerializeToString()
    add = h.make_node("Add", ["x", "unused"], ["y"]).SerializeToString()
    inner = [(number, whole) for number, _, whole, _ in split(nested(depth, entries)) if number == 1]
    graph = b"".join(whole for _, whole in inner) + record(1, add) + record(2, b"g")
    graph += record(5, condition) + record(11, x) + record(12, y)
    model = varint(1 << 3) + varint(9) + record(7, graph) + record(8, h.make_opsetid("", 17).SerializeToString())
    return Mutant("nesting", f"{depth} branches deep: {what}", {MODEL: model, **files})


# ===== ONNX Runtime's own =====


def mutate_runtime(rng, paths, outside, number):
    path = rng.choice([path for path in paths if path.parent.name in ("models", "rows")])
    model = onnx.load(path, load_external_data=False)
    files = {}
    secret = f"{outside}/secret.txt"

    def context(**attributes):
        node = h.make_node("EPContext", [model.graph.input[0].name], ["unused"], domain="com.microsoft", **attributes)
        model.graph.node.append(node)
        model.opset_import.append(h.make_opsetid("com.microsoft", 1))

    kinds = ["ort_config", "EPContext", "EPContext of the working directory", "EPContext with a link", "own format",
             "own format before an ONNX file", "prepacked", "huge metadata", "provider options"]
    kind = kinds[number % len(kinds)]
    data = None
    if kind == "ort_config":
        session = '{"session_options": {"intra_op_num_threads": 64, "optimized_model_filepath": "%s"}}' % secret
        h.set_model_props(model, {"ort_config": session})
    elif kind == "EPContext":
        context(ep_cache_context="../secret.txt", embed_mode=0, main_context=1, source="CPUExecutionProvider")
    elif kind == "EPContext of the working directory":
        context(ep_cache_context="secret.txt", embed_mode=0, main_context=1, source="OpenVINOExecutionProvider")
    elif kind == "EPContext with a link":
        context(ep_cache_context="link", embed_mode=0, main_context=1)
        files["link"] = secret
    elif kind == "own format":
        data = b"\x1c\0\0\0ORTM" + bytes(rng.randrange(256) for _ in range(400))
    elif kind == "own format before an ONNX file":
        # An unknown field, whose content stands where the other format has its name.
        data = varint(127 << 3 | 2) + b"\x06xORTMy" + model.SerializeToString()
    elif kind == "prepacked":
        model.graph.initializer.append(
            external([("location", "secret.txt"), ("length", "8"), ("prepacked_0", "k|0|8")], name="unused")
        )
    elif kind == "huge metadata":
        h.set_model_props(model, {"classes": "[" * 100_000, "names": "{0: 'a'}" * 50_000})
    else:
        h.set_model_props(model, {"session.model_external_initializers_file_folder_path": str(outside), "ep.context_file_path": secret})
    return Mutant("runtime", f"{path.stem}: {kind}", {MODEL: data or model.SerializeToString(), **files_beside(path), **files})


# How many of ten are of each family.
FAMILIES = [mutate_external] * 4 + [mutate_encoding] * 2 + [mutate_shape, mutate_name, mutate_bytes, None]
LAST = [mutate_nesting, mutate_runtime]


def mutants(count, seed, outside):
    """So many mutants; `outside` is a folder with decoys."""
    paths = bases()
    made = []
    seen = {}
    for number in range(count):
        mutate = FAMILIES[number % len(FAMILIES)] or LAST[number // len(FAMILIES) % len(LAST)]
        rng = random.Random(f"{seed} {number}")
        turn = seen[mutate] = seen.get(mutate, -1) + 1
        # A mutation does not fit every model.
        for _ in range(50):
            try:
                made.append(mutate(rng, paths, outside, turn))
                break
            except (DecodeError, EncodeError, IndexError, KeyError, AttributeError):
                continue
        else:
            raise RuntimeError(f"mutant {number} ({mutate.__name__}) fits no model")
    return made
