"""Files made to run code, leave their folder or take all memory, and who is to refuse them.

Run as a program, it tries each and prints what came of it as JSON; the test reads that.
"""

import io
import json
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop import recipes
from bayesdrop.compression.quantised_file import MAGIC
from bayesdrop.errors import BayesdropError
from bayesdrop.inference import checkpoint
from bayesdrop.recipes import load_run, run_recipe

OLD = Path(__file__).parent / "data"
PLAIN = OLD / "plain_files"
HUGE = 2**36


def network():
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2)).float()


def bnn():
    return bd.BayesianNetwork(network(), bd.Categorical(), num_data=5)


def zipped(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def pickled(path, code, data=b"\0" * 16):
    """Write what torch.save writes, with a pickle of one's own."""
    start = pickle.PROTO + b"\x02"
    entries = [("data.pkl", start + code), ("byteorder", b"little"), ("data/0", data)]
    zipped(path, [(f"archive/{name}", content) for name, content in [*entries, ("version", "3")]])


def called(module, name, *arguments):
    """Return the opcodes that call a function with small or large whole numbers."""
    numbers = b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in arguments)
    return f"c{module}\n{name}\n(".encode() + numbers + b"tR."


def storage(count):
    number = b"\x8a\x08" + struct.pack("<q", count)
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value  # noqa: E731
    kind = b"ctorch\nFloatStorage\n"
    return b"(" + text(b"storage") + kind + text(b"0") + text(b"cpu") + number + b"tQ"


def tensor(count, size, stride):
    """Return the opcodes of a tensor of a storage of ``count`` numbers."""
    number = lambda value: b"\x8a\x08" + struct.pack("<q", value)  # noqa: E731
    rest = number(0) + number(size) + b"\x85" + number(stride) + b"\x85" + b"\x89}"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + rest + b"tR."


class Runs:
    """Runs code where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def inflated(path, mark):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", tensor(2**25, 2**25, 1))
        with archive.open("archive/data/0", "w") as file:
            for _ in range(128):
                file.write(b"\0" * 2**20)


def twice(path, mark):
    pickled(path, b"}.")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/DATA.PKL", b"\x80\x02}.")


def overlapping(path, mark):
    """Write an archive whose directory names the same megabyte a thousand times."""
    zipped(path, [("archive/data.pkl", b"\x80\x02}."), ("archive/data/0", b"\0" * 2**20)])
    with zipfile.ZipFile(path) as archive:
        start, entries = archive.start_dir, archive.infolist()
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    at = content.rindex(b"PK\x01\x02", start, end)
    entry = content[at:end]
    many = b"".join(entry.replace(b"data/0", b"data/%c" % (97 + n)) for n in range(20))
    directory = content[start:end] + many
    tail = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, len(entries) + 20, len(entries) + 20, len(directory),
        start, 0,
    )  # fmt: skip
    path.write_bytes(content[:start] + directory + tail)


CHECKPOINTS = {
    "code in a checkpoint": lambda path, mark: path.write_bytes(
        saved({"format": "bayesdrop", "state": Runs(mark)})
    ),
    "a bare pickle": lambda path, mark: path.write_bytes(pickle.dumps(Runs(mark))),
    "a bytearray of 64 GiB": lambda path, _: pickled(
        path, called("__builtin__", "bytearray", HUGE)
    ),
    "a tensor that is called": lambda path, _: pickled(path, called("torch", "Tensor", 2**33)),
    "a storage that is called": lambda path, _: pickled(
        path, called("torch", "FloatStorage", 2**33)
    ),
    "a storage larger than its bytes": lambda path, _: pickled(path, tensor(HUGE, HUGE, 1)),
    "a tensor larger than its storage": lambda path, _: pickled(path, tensor(4, HUGE, 1)),
    "one number repeated": lambda path, _: pickled(path, tensor(4, HUGE, 0)),
    "a memo of 2^31 entries": lambda path, _: pickled(path, b"}r\xff\xff\xff\x7f."),
    "a pickle of bytes to come": lambda path, _: pickled(
        path, b"\x8e" + struct.pack("<Q", 2**35) + b"x."
    ),
    "nested a million times": lambda path, _: pickled(path, b")" + b"\x85" * 10**6 + b"."),
    "128 megabytes of zeros, deflated": inflated,
    "two entries of one name": twice,
    "entries on top of one another": overlapping,
}


def sparse(rows, columns=3, storage="bitmask", dtype="float32", nonzero=0, data=b""):
    def make(path, _):
        content = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)
        entry = ["0.weight", dtype, [rows, columns], storage, nonzero, 0, len(data)]
        checkpoint.write(
            path, {**checkpoint.header("sparse"), "tensors": [entry], "data": content}
        )

    return make


def right_shapes(dtype, storage, data):
    def make(path, _):
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tensors = [
            [name, dtype, list(value.shape), storage, 1, 0, len(data)]
            for name, value in network().state_dict().items()
        ]
        payload = {**checkpoint.header("sparse"), "tensors": tensors, "data": content}
        checkpoint.write(path, payload)

    return make


SPARSE = {
    "2^31 rows": sparse(2**31),
    "2^36 rows": sparse(HUGE),
    "2^62 rows of nothing": sparse(2**62, 0),
    "a number of rows below zero": sparse(-64),
    "rows of 2^63 entries": right_shapes("float32", "csr", b"\xff" * 600),
    "a type that is a function": right_shapes("load", "dense", b"\0" * 768),
}


def quantised(header, data=b"\0" * 64):
    """Return a maker of a whole file of format "quantised", whose header is text or values."""

    def make(path, _):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        rest = struct.pack("<I", len(text)) + text + data
        path.write_bytes(MAGIC + struct.pack("<I", zlib.crc32(rest)) + rest)

    return make


def on_grid(**changes):
    """Return the header of the network, one entry of which is changed."""
    fields = ["name", "dtype", "shape", "storage", "detail", "size"]
    entries = [
        dict(zip(fields, [name, "float32", list(x.shape), "grid", None, 8], strict=True))
        for name, x in network().state_dict().items()
    ]
    entries[0] |= changes
    return [list(entry.values()) for entry in entries]


QUANTISED = {
    "2^40 rows on a grid": quantised(on_grid(shape=[2**40, 3])),
    "a million brackets": quantised(b"[" * 1_000_000),
    "a grid of a type that is a function": quantised(on_grid(dtype="load")),
    "2^62 bytes on a grid": quantised(on_grid(size=2**62)),
    "fewer bytes than none": quantised(on_grid(size=-64)),
    "255 bits a weight": quantised(on_grid(), b"\xff" * 512),
}


def exported(**changes):
    """Return a maker of the old exported file, with entries changed by functions of a mark."""

    def make(path, mark):
        with zipfile.ZipFile(PLAIN / "compact.pt2") as old:
            entries = {name: old.read(name) for name in old.namelist()}
        for name, change in changes.items():
            found = next((e for e in entries if e.endswith(name.replace("__", "/"))), name)
            entries[found] = change(entries.get(found, b""), mark)
        zipped(path, entries.items())

    return make


def model(change):
    """Return a maker of an exported file whose graph is changed."""

    def edit(content, mark):
        values = json.loads(content)
        change(values, mark)
        return json.dumps(values).encode()

    return exported(**{"models/model.json": edit})


def _expression(code):
    def change(values, mark):
        sizes = values["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = code(mark) if callable(code) else code

    return model(change)


def _guard(values, mark):
    values["guards_code"] = [f"open({str(mark)!r}, 'w') is not None"]


def _renamed(values, mark):
    text = json.dumps(values["graph_module"]).replace('"input"', json.dumps(_default(mark)))
    values["graph_module"] = json.loads(text)


def _default(mark):
    return f"x=open({str(mark)!r}, 'w'), *, y"


def _imports(values, mark):
    mark.with_suffix(".py").write_text(f"open({str(mark)!r}, 'w')\nx = None\n")
    names = {"default_factory_module": mark.stem, "default_factory_name": "x"}
    context = {**names, "dict_context": []}
    spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    signature = values["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = json.dumps([1, spec])


def _comment(values, mark):
    for node in values["graph_module"]["graph"]["nodes"]:
        line = f'File "x.py", line 1, in f\n    y\ropen({str(mark)!r}, "w")'
        node["metadata"]["stack_trace"] = line


def _reads_a_file(values, mark):
    values["graph_module"]["graph"]["nodes"][1]["target"] = "torch.ops.aten.from_file.default"


def _payload(**changes):
    def edit(content, mark):
        values = json.loads(content)
        next(iter(values["config"].values())).update(changes)
        return json.dumps(values).encode()

    return edit


_LARGE = {
    "dtype": 7, "sizes": [{"as_int": HUGE}], "requires_grad": False, "layout": 7,
    "device": {"type": "cpu", "index": None}, "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0},
}  # fmt: skip
_WEIGHTS = "data/weights/model_weights_config.json"

EXPORTED = {
    "code in its example": exported(
        **{"sample_inputs/model.pt": lambda _, mark: saved((Runs(mark),))}
    ),
    "a bare pickle as its example": exported(
        **{"sample_inputs/model.pt": lambda _, mark: pickle.dumps(Runs(mark))}
    ),
    "code in a size": _expression(lambda mark: f"open({str(mark)!r}, 'w')"),
    "code in a size, without quotes": _expression("exec(chr(49))"),
    "a size by attributes": _expression("().__class__.__base__.__subclasses__()"),
    "a power of powers": _expression("Pow(Integer(9), Pow(Integer(9), Integer(9)))"),
    "code in a guard": model(_guard),
    "code in the name of an input": model(_renamed),
    "a module to import": model(_imports),
    "code after a comment": model(_comment),
    "an operator that opens files": model(_reads_a_file),
    "weights that are pickled": exported(**{_WEIGHTS: _payload(use_pickle=True)}),
    "weights of 2^36 numbers without bytes": exported(
        **{_WEIGHTS: _payload(tensor_meta=_LARGE), "weights/weight_0": lambda *_: b""}
    ),
    "a shared library": exported(
        **{"archive/data/aotinductor/model/a.so": lambda *_: b"\x7fELF"}
    ),
    "a pickle of an earlier format": lambda path, mark: zipped(
        path,
        [
            ("version", "8.20"), ("serialized_exported_program.json", "{}"),
            ("serialized_state_dict.json", pickle.dumps(Runs(mark))),
            ("serialized_constants.json", pickle.dumps(Runs(mark))),
            ("serialized_example_inputs.pt", pickle.dumps(Runs(mark))),
        ],
    ),
}  # fmt: skip


def _onnx(path, change):
    import onnx

    loaded = onnx.load_model_from_string((PLAIN / "compact.onnx").read_bytes())
    change(onnx, loaded.graph)
    path.write_bytes(loaded.SerializeToString())


def _outside(onnx, graph):
    weight = graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")


def _constant(onnx, graph):
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, [1], [2**32])
    graph.initializer.append(shape)
    graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["shape"], ["ones"]))
    graph.node.insert(1, onnx.helper.make_node("ReduceSum", ["ones"], ["one"]))
    graph.output.append(onnx.helper.make_tensor_value_info("one", onnx.TensorProto.FLOAT, None))


def _dimensions(onnx, graph):
    graph.initializer[0].dims[0] = HUGE


ONNX = {
    "weights in another folder": lambda path, _: _onnx(path, _outside),
    "weights of 2^36 rows": lambda path, _: _onnx(path, _dimensions),
    "a constant of 16 GiB": lambda path, _: _onnx(path, _constant),
}


def _good(folder):
    values = json.loads((folder / "recipe.json").read_text())
    del values["checksum"]
    return values


def _recipe(**changes):
    def make(folder, _):
        return json.dumps(_good(folder) | changes)

    return make


def _stage(folder, mark):
    values = _good(folder)
    values["recipe"]["stages"][0]["name"] = "../../outside"
    return json.dumps(values)


def _options(folder, mark):
    values = _good(folder)
    values["recipe"]["network_options"] = {"num_classes": 10**9}
    return json.dumps(values)


RECIPES = {
    "no image": _recipe(image_shape=[]),
    "images of 2^36 pixels": _recipe(image_shape=[1, 2**18, 2**18]),
    "images of 2^80 pixels": _recipe(image_shape=[2**20] * 4),
    "images below zero": _recipe(image_shape=[-1, 8, -8]),
    "classes below zero": _recipe(num_classes=-3),
    "a billion classes": _recipe(num_classes=10**9),
    "infinitely many classes": _recipe(num_classes=float("inf")),
    "an option of a billion": _options,
    "a stage in another folder": _stage,
    "nested brackets": lambda *_: "[" * 10**5,
    "a number of a million digits": lambda *_: '{"format": ' + "1" * 10**6 + "}",
    "a list as recipe": _recipe(recipe=[1]),
    "another format": _recipe(format=99),
}


def _npz(name, **entries):
    def make(folder, _):
        path = folder / "uci" / "yacht.npz"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, (header, content) in entries.items():
                file = io.BytesIO()
                np.lib.format.write_array_header_1_0(file, header)
                archive.writestr(f"{key}.npy", file.getvalue() + content)
        return "uci/yacht"

    return make


def _header(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def _objects(folder, mark):
    (folder / "uci").mkdir()
    x = np.array([Runs(mark)], dtype=object)
    np.savez(folder / "uci" / "yacht.npz", x=x, y=x, test_index_0=x)
    return "uci/yacht"


def _images(*members):
    def make(folder, mark):
        with tarfile.open(folder / "cifar10-jpeg75.tar.xz", "w:xz") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                content = content() if callable(content) else content
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return "cifar10-jpeg75"

    return make


def _jpeg(width=32, height=32):
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    content = bytearray(file.getvalue())
    at = content.index(b"\xff\xc0")  # the frame: its size is declared here
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _link(folder, mark):
    with tarfile.open(folder / "cifar10-jpeg75.tar.xz", "w:xz") as archive:
        info = tarfile.TarInfo("train/cat/0.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    return "cifar10-jpeg75"


_GOOD = (np.ones(308), np.ones(308).tobytes())
DATA = {
    "rows of 8 TiB": _npz("x", x=(_header((2**40,)), b"")),
    "a test index of 8 TiB": _npz(
        "x", x=(_header((308, 6)), bytes(308 * 48)), y=(_header((308,)), bytes(308 * 8)),
        test_index_0=(_header((2**40,), "<i8"), b""),
    ),
    "pickled rows": _objects,
    "an image of 20,000 x 20,000": _images(("train/cat/0.jpg", lambda: _jpeg(20_000, 20_000))),
    "an image of 64 x 64": _images(("train/cat/0.jpg", lambda: _jpeg(64, 64))),
    "thirty megabytes of zeros": _images(("train/cat/0.jpg", bytes(3 * 10**7))),
    "an image at the top": _images(("1.jpg", _jpeg)),
    "an image outside": _images(("../../outside/1.jpg", _jpeg)),
    "an absolute name": _images(("/tmp/train/dragon/1.jpg", _jpeg)),
    "a link": _link,
}  # fmt: skip

KINDS = {
    **{name: "checkpoint" for name in CHECKPOINTS},
    **{name: "sparse" for name in SPARSE},
    **{name: "quantised" for name in QUANTISED},
    **{name: "export" for name in EXPORTED},
    **{name: "onnx" for name in ONNX},
    **{name: "recipe" for name in RECIPES},
    **{name: "data" for name in DATA},
}


def prepare(name, folder):
    """Write the hostile file and return its size and what opens it."""
    kind, mark = KINDS[name], folder / "mark"
    if kind in ("recipe", "data"):
        inside = folder / "inside"
        if kind == "recipe":
            shutil.copytree(folder.parent / "good", inside)
        else:
            inside.mkdir()
        made = (RECIPES | DATA)[name](inside, mark)
        if kind == "data":
            size = sum(file.stat().st_size for file in inside.rglob("*") if file.is_file())
            return size, lambda: bd.load_data(made, data_dir=inside)
        (inside / "recipe.json").write_text(made)

        def opens():
            try:
                run_recipe(recipes.get("digits-mlp"), out=inside, progress=False)
            except BayesdropError:  # that it is another run
                load_run(inside)

        return len(made), opens
    path = folder / "file"
    (CHECKPOINTS | SPARSE | QUANTISED | EXPORTED | ONNX)[name](path, mark)
    if kind == "checkpoint":

        def opens():
            own = bnn()
            try:
                bd.load(own, path)
            except BayesdropError:
                bd.load_plain(path)

        return path.stat().st_size, opens
    fill = [network()] if kind in ("sparse", "quantised") else []
    return path.stat().st_size, lambda: bd.load_plain(path, *fill)


def memory(field):
    """Return a figure of this process in bytes: VmHWM, its peak, or VmPeak, all it asked for."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{field}:")[1].split()[0])


def attempt(name, folder):
    """Try to open one file, and return what came of it."""
    sys.path.insert(0, str(folder))
    size, opens = prepare(name, folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is used now
    before, asked = memory("VmHWM"), memory("VmPeak")
    try:
        opens()
        error = None
    except BayesdropError as found:
        error = str(found)
    except BaseException as found:  # noqa: B036 - any other is what the test is about
        error = f"raw {type(found).__name__}: {found}"
    sys.path.remove(str(folder))
    return {
        "error": error,
        "size": size,
        "grown": memory("VmHWM") - before,
        "asked": memory("VmPeak") - asked,
        "ran": (folder / "mark").exists(),
    }


def warm_up(folder):
    """Import what the good files need, so that it is not counted."""
    bd.load_plain(PLAIN / "compact.pt2")
    bd.load_plain(PLAIN / "weights.sparse", network())
    try:
        bd.load_plain(PLAIN / "compact.onnx")
    except ImportError:
        pass
    recipe = recipes.get("digits-mlp").override(epochs=1)
    run_recipe(recipe, out=folder / "good", progress=False)
    load_run(folder / "good")


def main(root):
    folder = Path(root)
    warm_up(folder)
    results = {}
    for number, name in enumerate(KINDS):
        own = folder / f"case{number}"
        own.mkdir()
        results[name] = attempt(name, own)
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
