#!/bin/bash
# Everything that only a GPU can show, within 8 minutes: the tests that need one, then the benchmark. One log, one JSON:
#   OUT=DIR bash benchmarks/gpu.sh            into DIR (default: benchmarks/gpu-results)
#   OUT=DIR bash benchmarks/gpu.sh --small    tiny networks, on a CPU too: whether all of it runs
# PYTHON names another interpreter than python.
set -u -o pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python} out=${OUT:-benchmarks/gpu-results}
mkdir -p "$out"
{
    command -v nvidia-smi >/dev/null && nvidia-smi
    timeout 180 "$python" -m pytest -n 0 -q -p no:cacheprovider -m gpu tests/test_gpu.py
    tests=$?
    timeout 300 "$python" -m benchmarks.gpu --seconds 270 --json "$out/gpu.json" "$@"
    measured=$?
    echo "exit status of the tests $tests, of the benchmark $measured"
    exit $((tests | measured))
} 2>&1 | tee "$out/gpu.log"
