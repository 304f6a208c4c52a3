"""Probe: which modules import. Arguments: {"modules": [...]}. Answer: {"ok", "modules": {name: ...}}."""

import importlib
import json
import sys
import time


def main():
    arguments, answer = json.loads(sys.argv[1]), sys.argv[2]
    modules = {}
    for name in arguments["modules"]:
        started = time.perf_counter()
        try:
            module = importlib.import_module(name)
            modules[name] = {"ok": True, "version": str(getattr(module, "__version__", ""))}
        except BaseException as error:  # an extension may raise anything, SystemExit included
            modules[name] = {"ok": False, "error": "%s: %s" % (type(error).__name__, error)}
        modules[name]["seconds"] = round(time.perf_counter() - started, 3)
    document = {"ok": all(row["ok"] for row in modules.values()), "modules": modules}
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump(document, stream)


main()
