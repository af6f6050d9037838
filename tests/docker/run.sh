#!/usr/bin/env bash
# `make test-docker`: the stack in real containers. With the Docker Engine at hand, or one started for the tests;
# without either the tests are skipped, which is said and is no failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
starter=../shared/tools/start_docker.sh
wheels=deploy/docker/wheels
run=()

if docker info > /dev/null 2>&1; then
  :
elif [ -f "$starter" ]; then
  export DK_ROOT="${DK_ROOT:-${TMPDIR:-/tmp}/dk}"
  rc=0; bash "$starter" start || rc=$?
  [ $rc != 77 ] || { echo "compose tests skipped: no Docker Engine can be had here"; exit 0; }
  [ $rc = 0 ] || exit $rc
  . "$DK_ROOT/env.sh"
  # What is left behind is no verdict on the tests.
  clean() { set +e; docker image ls -q 'drift-*:test' | xargs -r docker image rm -f > /dev/null; DOCKER_BUILDKIT=1 docker builder prune -af > /dev/null; bash "$starter" stop; rm -f "$wheels"/*.whl; }
  trap clean EXIT
  # Published ports are reachable in the engine's own network namespace only.
  run=(nsenter -t "$DK_NS" -n --)
else
  echo "compose tests skipped: no Docker Engine"; exit 0
fi

# The image build finds PyTorch where pip finds it here.
[ -n "${DRIFT_TORCH_INDEX:-}" ] || "$python" -m pip download -q --no-deps -d "$wheels" "$(grep '^torch==' requirements/cpu.txt)" ||
  echo "torch's CPU build is not on the package index: set DRIFT_TORCH_INDEX if the image build misses it."
"${run[@]}" "$python" -m pytest -m docker tests/docker -v --durations=0
