# `perigee bench` knows its benchmarks and refuses others, and the plans of the demo compile.
failed=0
state() { # NAME CONDITION…
  name=$1
  shift
  if "$@"; then echo "ok - $name"; else
    echo "not ok - $name"
    failed=1
  fi
}

"$PERIGEE" bench list >"$TMPDIR/bench.list"
state "bench lists its benchmarks" grep -qx logreg "$TMPDIR/bench.list"
"$PERIGEE" bench logrge 2>"$TMPDIR/bench.err"
state "an unknown benchmark is misuse" test $? = 2
state "and the nearest one is named" grep -q "logreg" "$TMPDIR/bench.err"
PERIGEE_BENCH_SLICE=0.001 "$PERIGEE" bench paired_logreg >"$TMPDIR/bench.paired" 2>"$TMPDIR/bench.err"
state "corrected methods are held against plain ones" grep -q "SVRG step .*SGD step .*<= 2.1 " "$TMPDIR/bench.paired"
state "a step's share of the machine's peak is said" grep -Eq "IVON-PoCo step +[0-9.]+ .*[0-9]%" "$TMPDIR/bench.paired"
"$PERIGEE" bench compile-here >"$TMPDIR/bench.times"
state "every method of the demo compiles" test "$(grep -c '^[a-z-]* [0-9.]*$' "$TMPDIR/bench.times")" = 5
exit $failed
