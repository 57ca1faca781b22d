#!/usr/bin/env bash
# Train on all cards of one node, or of several: bash scripts/train_ascend.sh OPTIONS_OF_TRAIN.PY
#
# On every node, with the same options and the same files (the output folder is shared by the nodes):
#   CARDS        cards of this node (8)
#   NODES        how many nodes (1)
#   NODE_RANK    number of this node, from 0 (0)
#   MASTER_ADDR  address of node 0 (127.0.0.1)
#   MASTER_PORT  a free port there (8118)
#   LOG_DIR      folder for what each process prints (outputs/logs)
#
# SIGTERM and Ctrl-C are passed on: the processes write a checkpoint and end.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cards=${CARDS:-8} nodes=${NODES:-1} logs=${LOG_DIR:-outputs/logs}
echo "each process writes to $logs/worker_N.log; here is what the first one says" >&2
export GLOG_v=${GLOG_v:-3}  # MindSpore's warnings about processes that come and go
# In a session of its own, where the terminal's Ctrl-C does not reach it: msrun would kill the processes at once.
setsid msrun --worker_num=$((cards * nodes)) --local_worker_num="$cards" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-8118}" \
    --log_dir="$logs" --join=True --tail_worker_log=0 "$root/train.py" "$@" &
msrun=$!
trap 'pkill -TERM -P $msrun -f train.py' TERM INT
code=0
while kill -0 $msrun 2> /dev/null; do
    wait $msrun && code=0 || code=$?
done
exit $code
