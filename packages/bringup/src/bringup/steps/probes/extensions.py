"""Probe: whether what was built can be imported.

Arguments: {"path": folder that is put first on sys.path, "torch": whether torch is imported first,
    "packages": [names], "modules": [{"name", "file"}], "libraries": [files], "folders": [where missing
    shared libraries may be taken from]}.
Answer: {"ok", "modules": {name: {"ok", "error"}}, "needs": [what the environment lacks and was lent]}.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import re
import sys


class Loader:
    def __init__(self, arguments):
        self.folders = arguments["folders"]
        self.own = set(os.listdir(arguments["path"]))
        self.needs = []

    def lend(self, error):
        """Load the library that an error says is missing, from one of the folders."""
        found = re.match(r"([\w.+-]+\.so[\w.]*): cannot open shared object file", str(error))
        if not found or found.group(1) in self.needs:
            return False
        for folder in self.folders:
            path = os.path.join(folder, found.group(1))
            if os.path.exists(path):
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
                self.needs.append(found.group(1))
                return True
        return False

    def is_foreign(self, error):
        """Whether a missing module is one of the environment's, not of what was built."""
        name = (getattr(error, "name", None) or "").split(".")[0]
        return bool(name) and not any(row.split(".")[0] == name for row in self.own)

    def attempt(self, load):
        while True:
            try:
                load()
                return {"ok": True}
            except BaseException as error:  # noqa: PERF203 - an extension may raise anything, SystemExit included
                if isinstance(error, (ImportError, OSError)) and self.lend(error):
                    continue
                row = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
                if isinstance(error, ModuleNotFoundError) and self.is_foreign(error):
                    row["foreign"] = error.name
                return row

    def module(self, name, file):
        """By its name; straight from its file where a package around it wants what is not installed."""
        row = self.attempt(lambda: importlib.import_module(name))
        if "foreign" not in row:
            return row
        self.needs.append(row["foreign"])
        specification = importlib.util.spec_from_file_location(name, file)
        return self.attempt(lambda: importlib.util.module_from_spec(specification))

    def package(self, name):
        row = self.attempt(lambda: importlib.import_module(name))
        if "foreign" in row:
            self.needs.append(row["foreign"])
            return {"ok": True}
        return row


def main():
    arguments, answer = json.loads(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, arguments["path"])
    loader = Loader(arguments)
    modules = {}
    if arguments["torch"]:
        row = loader.attempt(lambda: importlib.import_module("torch"))
        if not row["ok"]:
            modules["torch"] = row
    for row in arguments["modules"]:
        modules[row["name"]] = loader.module(row["name"], row["file"])
    for name in arguments["packages"]:
        modules[name] = loader.package(name)
    for file in arguments["libraries"]:
        modules[os.path.basename(file)] = loader.attempt(lambda file=file: ctypes.CDLL(file))
    needs = sorted(set(loader.needs))
    document = {"ok": all(row["ok"] for row in modules.values()), "modules": modules, "needs": needs}
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump(document, stream)


main()
