#!/bin/sh
set -eu
export DOCKER_BUILDKIT=1
export NOTE='50% & more'
docker build -t lab/x:1 "$(dirname "$0")"
docker run --rm --gpus all -v "$PWD"'/my data':/input \
  -e 'OPTIONS={"name": "it'"'"'s 100%", "path": "C:\x\"}' -e EMPTY= lab/x:1 python \
  run.py 'a & b | c > d' '' %PATH% '!x!' '^' "$@"
'C:\Program Files\Docker\docker.exe' version
