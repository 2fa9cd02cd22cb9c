#!/usr/bin/env bash
# What only a GPU can show, in eight minutes at most: tests/gpu/check.sh [FOLDER] [--cpu] [--part NAME]
#
# FOLDER, or else $OUT, gets results.json and log. Needs PyTorch, transformers and pytest with its
# plugins xdist and timeout; no network, and nothing of Hydra, MLflow or Optuna. With --cpu the same
# parts run on tiny models on the processor. PYTHON is the interpreter, python3 unless it is set.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
exec timeout --kill-after=5 475 "${PYTHON:-python3}" -m gpu.check "$@"
