$ErrorActionPreference = 'Stop'
$PSNativeCommandArgumentPassing = 'Legacy'
$env:DOCKER_BUILDKIT = '1'
$env:NOTE = '50% & more'
docker build -t lab/x:1 "$PSScriptRoot"
if ($LASTEXITCODE) { exit $LASTEXITCODE }
docker run --rm --gpus all -v "${PWD}\my data:/input" `
  -e 'OPTIONS={\"name\": \"it''s 100%\", \"path\": \"C:\x\\\"}' -e EMPTY= lab/x:1 `
  python run.py 'a & b | c > d' '""' '%PATH%' '!x!' '^' @args
if ($LASTEXITCODE) { exit $LASTEXITCODE }
& 'C:\Program Files\Docker\docker.exe' version
if ($LASTEXITCODE) { exit $LASTEXITCODE }
