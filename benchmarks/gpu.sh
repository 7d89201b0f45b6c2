#!/usr/bin/env bash
# Everything for a machine with a GPU, in under eight minutes and without a network: checks the
# kernels, then measures them and writes benchmarks/results/<version>/gpu-<name>.json.
#
#   benchmarks/gpu.sh [--output DIR] [--seconds N]
#
# --seconds is the time for all of it, 465 by default. Exit status: 0 measured, 1 a test or a measurement failed,
# 2 this machine cannot run it.
set -uo pipefail
caller=$PWD
cd "$(dirname "$0")/.." || exit 2

budget=465
tests=180
arguments=()
while (($#)); do
  case $1 in
    --seconds | --output)
      if (($# < 2)); then
        echo "gpu.sh: $1 must be followed by a value" >&2
        exit 2
      fi ;;
    *)
      echo "gpu.sh: unknown option $1; there are --output DIR and --seconds N" >&2
      exit 2 ;;
  esac
  if [[ $1 == --seconds ]]; then
    budget=$2
  else
    arguments+=(--output "$(cd "$caller" && realpath -m -- "$2")")
  fi
  shift 2
done
if ! [[ $budget =~ ^[1-9][0-9]*$ ]]; then
  echo "gpu.sh: --seconds must be a whole number, got $budget" >&2
  exit 2
fi

export PYTHONPATH=$PWD/src:$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
unset TRITON_INTERPRET

python3 - <<'EOF' || exit 2
import importlib.util
import sys

missing = [name for name in ("torch", "triton") if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"gpu.sh: python3 needs {' and '.join(missing)}")
import torch

if not torch.cuda.is_available():
    sys.exit(f"gpu.sh: torch {torch.__version__} finds no CUDA GPU")
print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
EOF

echo "== tests"
# Only the files that hold such tests: others may need what is not installed here.
mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
# Most of their time is the host's, which compiles: side by side where pytest can.
side_by_side=()
python3 -c 'import xdist' 2>/dev/null && side_by_side=(-n "$(($(nproc) < 8 ? $(nproc) : 8))")
# Other versions of torch may warn of other things.
timeout -k 5 "$tests" python3 -m pytest -m gpu -q -x -W default -p no:cacheprovider \
  ${side_by_side[@]+"${side_by_side[@]}"} "${files[@]}"
status=$?
if ((status == 124 || status == 137)); then
  echo "gpu.sh: the tests took more than $tests s; nothing is measured" >&2
  exit 1
elif ((status)); then
  echo "gpu.sh: the tests failed (status $status); nothing is measured" >&2
  exit 1
fi

# A part that has begun is finished: what may be left of it after the deadline is cut off. Results
# are written after every entry, so nothing is lost by that.
left=$((budget - SECONDS))
if ((left < 60)); then
  echo "gpu.sh: the tests left no time of the $budget s; nothing is measured" >&2
  exit 1
fi
echo "== measurements, $left s"
timeout -k 5 "$((left - 5))" python3 -m benchmarks.gpu --seconds "$((left - 30))" "${arguments[@]}"
status=$?
if ((status == 124 || status == 137)); then
  echo "gpu.sh: cut off at the time limit; what was measured is written" >&2
  exit 0
fi
exit "$status"
