"""Runs `prostate-ssl train` with the arguments of this process."""

import sys

from prostate_ssl.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["train", *sys.argv[1:]], prog_name="prostate_ssl.train"))
