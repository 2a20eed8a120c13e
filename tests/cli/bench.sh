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
"$PERIGEE" bench compile-here >"$TMPDIR/bench.times"
state "every method of the demo compiles" test "$(grep -c '^[a-z-]* [0-9.]*$' "$TMPDIR/bench.times")" = 5
exit $failed
