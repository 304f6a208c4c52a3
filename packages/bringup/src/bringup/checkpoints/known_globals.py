"""Names that checkpoints use, and names that none needs: the tables behind the verdicts."""

from __future__ import annotations

from bringup.checkpoints.tensors import DTYPE_ALIASES, ELEMENT_TYPES, STORAGE_TYPES

_WRITTEN_BY_CHECKPOINTS: dict[str, str] = {
    "builtins": """
        set frozenset list tuple dict bytearray bytes complex int float str bool slice range object type
    """,
    "collections": "OrderedDict defaultdict Counter deque",
    "datetime": "date time datetime timedelta timezone",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "pathlib._local": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "_codecs": "encode",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "types": "SimpleNamespace",
    "argparse": "Namespace",
    "uuid": "UUID",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "torch": """
        Size device dtype layout Tensor FloatTensor DoubleTensor HalfTensor BFloat16Tensor LongTensor
        IntTensor ShortTensor CharTensor ByteTensor BoolTensor strided sparse_coo sparse_csr sparse_csc
        sparse_bsr sparse_bsc per_tensor_affine per_channel_affine per_tensor_symmetric
        per_channel_symmetric per_channel_affine_float_qparams
    """,
    "torch.storage": "_load_from_bytes UntypedStorage TypedStorage",
    "torch._utils": """
        _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter
        _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_tensor _rebuild_nested_tensor
        _rebuild_meta_tensor_no_storage _rebuild_device_tensor_from_numpy _rebuild_xla_tensor
        _rebuild_device_tensor_from_cpu_tensor
    """,
    "torch._tensor": "_rebuild_from_type _rebuild_from_type_v2",
    "torch.tensor": "_rebuild_from_type",
    "torch.serialization": "_get_layout",
    "torch.nn": "Parameter",
    "torch.nn.parameter": "Parameter Buffer",
    "torch.autograd.variable": "Variable",
    "torch.jit._pickle": """
        build_intlist build_doublelist build_boollist build_tensorlist build_tensor_from_id restore_type_tag
    """,
    # torch.memory_format pickles as a dotted name below whatever module pickle finds it in.
    "torch._utils.torch": "contiguous_format preserve_format channels_last channels_last_3d",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
}

HARMLESS: frozenset[str] = frozenset(
    [f"{module}.{name}" for module, names in _WRITTEN_BY_CHECKPOINTS.items() for name in names.split()]
    + [f"torch.{name}" for name in [*ELEMENT_TYPES, *DTYPE_ALIASES, *STORAGE_TYPES]]
    + [f"torch.cuda.{name}" for name in STORAGE_TYPES]
)
"""Globals that mean tensors, containers and plain values."""

TYPE_MODULES = frozenset(
    ["typing", "typing_extensions", "inspect", "enum", "types", "numbers", "collections.abc", "abc"]
)
"""Names of these appear inside type annotations, which layers of torch_geometric carry along."""
TYPE_NAMES_REFUSED = frozenset(
    ["types.FunctionType", "types.CodeType", "types.LambdaType", "types.MethodType"]
)
HARMLESS_TYPE_CALLS = frozenset(
    [
        "inspect.Parameter",
        "inspect.Signature",
        "inspect._ParameterKind",
        "types.GenericAlias",
        "typing.TypeVar",
    ]
)

_MADE_BY_CALLS: dict[str, str] = {
    "builtins": """
        abs all any chr divmod enumerate hash len max min ord pow repr reversed round sorted sum zip
        print isinstance issubclass callable format id bin hex oct iter next
        staticmethod classmethod property memoryview super Ellipsis NotImplemented NoneType
    """,
    "functools": "partial",
    "itertools": "count cycle repeat chain",
    "logging": "getLogger Logger RootLogger",
    "re": "_compile Pattern RegexFlag",
    "array": "array _array_reconstructor",
    "random": "Random",
    "math": "exp log sqrt sin cos tan tanh floor ceil pow fabs",
    "torch.nn.backends.thnn": "_get_thnn_function_backend",
    "numpy.random": "RandomState Generator",
    "numpy.random._pickle": "__randomstate_ctor __generator_ctor __bit_generator_ctor",
    "numpy.ma.core": "_mareconstruct",
    "torch.nested._internal.nested_tensor": "_rebuild_njt",
    "torch._dynamo.decorators": "_DimRange",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.tslibs.timestamps": "_unpickle_timestamp",
    "pandas._libs.tslibs.timedeltas": "_timedelta_unpickle",
    "pandas.core.indexes.base": "_new_Index",
    "torch._utils": "_rebuild_wrapper_subclass",
}
OBJECTS: frozenset[str] = frozenset(
    f"{module}.{name}" for module, names in _MADE_BY_CALLS.items() for name in names.split()
)
"""Calls that pickled objects of well-known classes are made by, and functions without side effects."""
CALLS_OF_OBJECTS: frozenset[str] = OBJECTS - frozenset(
    f"builtins.{name}" for name in _MADE_BY_CALLS["builtins"].split()
)

LOADS_BYTES = "torch.storage._load_from_bytes"
"""Runs `torch.load` on its argument."""
REBUILDS_SUBCLASSES = frozenset(
    [
        "torch._tensor._rebuild_from_type",
        "torch._tensor._rebuild_from_type_v2",
        "torch.tensor._rebuild_from_type",
    ]
)
"""`(function, class, arguments, state)`: call the function with the arguments."""
MAKES_GENERATORS = frozenset(
    f"numpy.random._pickle.{name}"
    for name in ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")
)
"""Call what they are given as constructor of a bit generator."""
_LENT = """
    Popen CDLL PyDLL WinDLL OleDLL FunctionType CodeType LambdaType MethodType InteractiveConsole
    InteractiveInterpreter SubprocessProtocol FileIO SourceFileLoader ExtensionFileLoader
    SourcelessFileLoader FileFinder Pdb Bdb
"""
CLASSES_THAT_REACH_OUT = frozenset(_LENT.split())
"""Classes of the standard library that other modules import, and so lend under names of their own."""

_REACHES_OUT = """
    torch.hub torch.load torch.package torch.jit.load torch.jit.frontend torch.jit.unsupported
    torch.serialization.load torch.utils.cpp_extension torch.utils.bottleneck torch.utils.collect_env
    torch.utils._config_module torch.utils.data.datapipes.utils.decoder torch._dynamo torch._inductor
    torch.fx.experimental torch.distributed.rpc torch.ops.load_library torch._ops torch.classes
    torch.multiprocessing torch.testing torch._C._jit torch.cuda._compile_kernel torch._library
    numpy.load numpy.loads numpy.fromfile numpy.memmap numpy.testing numpy.f2py numpy.ctypeslib
    numpy.distutils numpy.lib numpy.save numpy.fromregex numpy.genfromtxt pandas.read_pickle pandas.eval
    pandas.io joblib dill cloudpickle jsonpickle pip setuptools pkg_resources IPython jupyter_client
    requests urllib3 httpx aiohttp yaml fsspec sympy.parsing sympy.sympify win32api paramiko fabric sh
    plumbum pexpect psutil cffi numba nltk.app pty commands popen2 distutils imp __main__.__builtins__
"""
_STANDARD_LIBRARY_OF_OTHER_VERSIONS = """
    lib2to3 asynchat asyncore smtpd cgi cgitb crypt pipes telnetlib nntplib uu xdrlib aifc audioop chunk
    imghdr mailcap msilib nis ossaudiodev sndhdr spwd sunau formatter parser symbol macpath binhex urllib2
    httplib thread dircache user new ihooks rexec Bastion compression annotationlib _interpreters
    _interpchannels _interpqueues _remote_debugging tomllib
"""
MENTION_IS_ENOUGH: tuple[str, ...] = tuple((_REACHES_OUT + _STANDARD_LIBRARY_OF_OTHER_VERSIONS).split())
"""What reaches the system, the network or an interpreter; below these names everything counts."""
