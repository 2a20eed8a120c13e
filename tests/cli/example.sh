# The 30-line program in C alone (tests/c/example.c) finds the line it was given.
expected="w = 2.000000 -1.000000 0.500000"
said=$("$PERIGEE_BUILD/tests/c/example") || { echo "not ok - tests/c/example.c (status $?)"; exit 1; }
case $said in
"$expected"*) echo "ok - a program in C alone builds, differentiates and runs a graph" ;;
*) echo "not ok - a program in C alone builds, differentiates and runs a graph (it printed: $said)"; exit 1 ;;
esac
