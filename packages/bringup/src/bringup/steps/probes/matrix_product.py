"""Probe: a matrix product on every device against a float64 product on the CPU.

Arguments: {"size": 512}. Answer: {"ok", "torch", "cuda", "devices": [{"name", "capability", "error"}]}.
`error` is the relative Frobenius norm of the difference; float32 must stay below 1e-5 (TF32 is off).
"""

import json
import sys


def check(torch, device, size):
    generator = torch.Generator().manual_seed(20260101)
    a = torch.randn(size, size, generator=generator, dtype=torch.float64)
    b = torch.randn(size, size, generator=generator, dtype=torch.float64)
    exact = a @ b
    product = (a.float().to(device) @ b.float().to(device)).double().cpu()
    error = ((product - exact).norm() / exact.norm()).item()
    return {"error": error, "ok": error < 1e-5}


def main():
    arguments, answer = json.loads(sys.argv[1]), sys.argv[2]
    document = {"ok": False, "devices": []}
    try:
        import torch

        document["torch"] = torch.__version__
        document["cuda"] = torch.version.cuda
        torch.backends.cuda.matmul.allow_tf32 = False
        devices = [("cpu", "CPU", None)]
        if torch.cuda.is_available():
            for index in range(torch.cuda.device_count()):
                capability = "%d.%d" % torch.cuda.get_device_capability(index)
                devices.append(("cuda:%d" % index, torch.cuda.get_device_name(index), capability))
        for device, name, capability in devices:
            row = {"device": device, "name": name, "capability": capability}
            try:
                row.update(check(torch, device, arguments.get("size", 512)))
            except Exception as error:
                row.update({"ok": False, "message": "%s: %s" % (type(error).__name__, error)})
            document["devices"].append(row)
        document["ok"] = all(row["ok"] for row in document["devices"])
    except Exception as error:
        document["message"] = "%s: %s" % (type(error).__name__, error)
    with open(answer, "w", encoding="utf-8") as stream:
        json.dump(document, stream)


main()
