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
# SIGTERM, SIGHUP and Ctrl-C are passed on: the processes write a checkpoint and end, and so does this script, with 143,
# 129 or 130. Ctrl-C again ends all at once. Where this script is killed, they write a checkpoint and end, too.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cards=${CARDS:-8} nodes=${NODES:-1} logs=${LOG_DIR:-outputs/logs}
mkdir -p "$logs"
echo "each process writes to $logs/worker_N.log; here is what the first one says" >&2
export GLOG_v=${GLOG_v:-3}  # MindSpore's warnings about processes that come and go
export SVD_LAUNCHER=$$ SVD_STOPPED  # the processes end with this one, and say there if a signal has ended the run
SVD_STOPPED=$(mktemp)
trap 'rm -f "$SVD_STOPPED"' EXIT
# In a session of its own, where the terminal's Ctrl-C does not reach it: msrun would kill the processes at once.
setsid msrun --worker_num=$((cards * nodes)) --local_worker_num="$cards" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-8118}" \
    --log_dir="$logs" --join=True --tail_worker_log=0 "$root/train.py" "$@" 2> "$logs/msrun.log" &
msrun=$!
signalled=0
stop() {
    if [ "$signalled" = 130 ] && [ "$1" = 130 ]; then
        pkill -KILL -P $msrun -f train.py || true
    elif [ "$signalled" = 0 ]; then
        pkill -TERM -P $msrun -f train.py || true
    fi
    signalled=$1
}
trap 'stop 143' TERM
trap 'stop 130' INT
trap 'stop 129' HUP
code=0
while kill -0 $msrun 2> /dev/null; do
    wait $msrun && code=0 || code=$?
done
pkill -KILL -s $msrun || true  # what a msrun that was killed has left, such as its display of the log
if [ -s "$SVD_STOPPED" ]; then
    code=$(cat "$SVD_STOPPED")
fi
if [ "$signalled" != 0 ]; then
    code=$signalled
elif [ "$code" != 0 ] && [ ! -s "$SVD_STOPPED" ]; then
    tail -n 50 "$logs/msrun.log" >&2 || true
fi
exit "$code"
