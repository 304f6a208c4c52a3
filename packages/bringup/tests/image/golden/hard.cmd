@echo off
setlocal
set "DOCKER_BUILDKIT=1"
set "NOTE=50%% & more"
docker build -t lab/x:1 "%~dp0."
if errorlevel 1 exit /b %errorlevel%
docker run --rm --gpus all -v "%cd%\my data:/input" ^
  -e ^"OPTIONS={\^"name\^": \^"it's 100%%\^", \^"path\^": \^"C:\x\\\^"}^" ^
  -e EMPTY= lab/x:1 python run.py "a & b | c > d" "" "%%PATH%%" "!x!" "^" %*
if errorlevel 1 exit /b %errorlevel%
"C:\Program Files\Docker\docker.exe" version
if errorlevel 1 exit /b %errorlevel%
