#!/bin/sh
# timed.sh: run a command and print the wall time it took.
#   tools/timed.sh LABEL command argument…     → "LABEL: 12.3 s" on standard output; status of the command
label=$1
shift
start=$(date +%s%N)
"$@"
status=$?
end=$(date +%s%N)
tenths=$(((end - start) / 100000000))
echo "$label: $((tenths / 10)).$((tenths % 10)) s"
exit $status
