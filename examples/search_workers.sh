#!/bin/sh
# Searches a policy with eight workers, one GPU each. The same command resumes it; on further machines, with one STORAGE for
# all (postgresql://USER@HOST/DATABASE), it joins in.
#
#   examples/search_workers.sh PROFILE OUT --prompts FILE [further options of `pabtune search`]
#
# For the embedded model prompts need not be given.
#
# WORKERS, DEVICE, BUDGET, STORAGE: variables that stand in for what is below.
set -eu
profile=$1
out=$2
shift 2
exec "${PABTUNE:-pabtune}" search "$profile" --out "$out" --budget "${BUDGET:-vbench-quality>=-1.0}" \
    --workers "${WORKERS:-8}" --device "${DEVICE:-cuda}" ${STORAGE:+--storage "$STORAGE"} "$@"
