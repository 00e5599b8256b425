#!/usr/bin/env bash
# What is to be measured on a GPU, the most important first; each entry takes less than 8 minutes and leaves
# benchmarks/results/gpu_NAME.json; the last, a study of many hours, goes on where it was cut short. Run it again: what has been measured on this device with these sources is skipped.
#
#     benchmarks/gpu_queue.sh [--device cpu --tiny] [--out FOLDER] [--date DATE]
#
# PYTHON=python3     the Python that has torch       DATA=data-pack  photographs and CIFAR-10 (benchmarks/make_pack.py)
# ONLY="steps ..."   these entries alone             FORCE=1         measure again
# COMMIT=...         to be recorded where there is no git            LIMIT=470  seconds that an entry may take
#
# No network is needed: what this Python lacks is installed from wheels/ (benchmarks/gpu_wheels.sh) into .gpu-site/.
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-470}
SITE=".gpu-site/$("$PYTHON" -c 'import sys; print(sys.implementation.cache_tag)')" || exit 1
if [ -d wheels ] && [ ! -d "$SITE" ]; then
  "$PYTHON" benchmarks/gpu_site.py wheels "$SITE" || exit 1
fi
export PYTHONPATH="$PWD/$SITE:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

ENTRIES=(
  "reference|benchmarks/gpu_reference.py"
  "steps|benchmarks/gpu_steps.py"
  "end_to_end|benchmarks/gpu_end_to_end.py"
  "methods|benchmarks/gpu_methods.py"
  "cifar_mae|benchmarks/gpu_cifar.py mae"
  "cifar_scratch|benchmarks/gpu_cifar.py scratch"
  "cifar10_study|benchmarks/gpu_study.py"
)

done=() skipped=() failed=()
trap 'echo "interrupted; run it again to go on"; exit 130' INT TERM
for entry in "${ENTRIES[@]}"; do
  name=${entry%%|*} command=${entry#*|}
  case " ${ONLY:-$name} " in *" $name "*) ;; *) continue ;; esac
  if [ "${FORCE:-0}" != 1 ] && "$PYTHON" benchmarks/gpu_record.py "$name" "$@"; then
    echo "== $name: measured already"
    skipped+=("$name (measured already)")
    continue
  fi
  echo "== $name: $command $*"
  # shellcheck disable=SC2086  # the command is several words
  timeout --kill-after=15 "$LIMIT" "$PYTHON" $command "$@"
  code=$?
  case $code in
    0) done+=("$name") ;;
    77) skipped+=("$name (nothing to measure it with, see above)") ;;
    75 | 124) failed+=("$name (cut short after $LIMIT s; run it again)") ;;
    *) failed+=("$name (exit code $code)") ;;
  esac
done

report() {
  local title=$1
  shift
  echo "$title: $#"
  for line in "$@"; do echo "  $line"; done
}
echo "== summary"
report done "${done[@]+"${done[@]}"}"
report skipped "${skipped[@]+"${skipped[@]}"}"
report failed "${failed[@]+"${failed[@]}"}"
[ ${#failed[@]} -eq 0 ]
