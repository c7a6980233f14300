#!/usr/bin/env bash
# What selftune does on a GPU, in at most eight minutes; see gpu.py for the options.
#   pip install -e '.[cuda,test]' && bash benchmarks/gpu.sh [FOLDER]
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/gpu.py" "$@"
