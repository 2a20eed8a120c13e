#!/bin/sh
# install-deps.sh: installs what building, testing and the demo need, where it is missing. Says nothing and touches no
# network when all is there. On Debian and its relatives it uses apt-get (with sudo where not root); elsewhere it says
# exactly what is missing and ends with status 1.
#   tools/install-deps.sh [build] [test] [lint] [demo]      groups; default: build
set -eu

# group, Debian package, how to tell elsewhere that it is there, what it is called there
packages() {
  cat <<'END'
build gcc                    command:gcc             a C compiler
build make                   command:make            GNU make
build libc6-dev              header:stdio.h          the C library's headers
build pkg-config             command:pkg-config      pkg-config
build lua5.4                 command:lua5.4          the Lua 5.4 interpreter, as lua5.4
build liblua5.4-dev          pkg:lua5.4              Lua 5.4 headers and library (Fedora: lua-devel)
build libopenblas-openmp-dev library:openblas        OpenBLAS built with OpenMP (elsewhere: make BLAS_DIR=<its directory>)
build libjansson-dev         header:jansson.h        jansson, JSON in C
build zlib1g-dev             header:zlib.h           zlib
build liblzma-dev            header:lzma.h           liblzma (xz)
build libedit-dev            header:histedit.h        libedit
test  librandom123-dev       header:Random123/philox.h   Random123, whose vectors check our random numbers
test  lua-busted             command:busted          busted, for Lua 5.4
test  dataset-fashion-mnist  file:/usr/share/datasets/fashion-mnist  Fashion-MNIST (four .gz files; a directory of PERIGEE_DATA)
lint  lua-check              command:luacheck        luacheck
lint  clang-format           command:clang-format    clang-format 14
demo  dataset-fashion-mnist  file:/usr/share/datasets/fashion-mnist  Fashion-MNIST (four .gz files; a directory of PERIGEE_DATA)
END
}

is_installed() {
  dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

# On a system without dpkg: look for the thing itself.
is_present() {
  name=${1#*:}
  case $1 in
  command:*) command -v "$name" >/dev/null 2>&1 ;;
  pkg:*) pkg-config --exists "$name" 2>/dev/null ;;
  header:*) echo "#include <$name>" | gcc -E - >/dev/null 2>&1 ;;
  library:*) ldconfig -p 2>/dev/null | grep -q "lib$name" ;;
  file:*) [ -e "$name" ] ;;
  esac
}

groups=" ${*:-build} "
have_dpkg=$(command -v dpkg-query || true)
missing=""
described=""
wanted=$(packages | while read -r group package probe what; do
  case $groups in *" $group "*) echo "$package $probe $what" ;; esac
done | sort -u)
while read -r package probe what; do
  if [ -n "$have_dpkg" ]; then is_installed "$package" && continue; else is_present "$probe" && continue; fi
  missing="$missing $package"
  described="$described
  $package: $what"
done <<END
$wanted
END
[ -n "$missing" ] || exit 0

explain() {
  {
    echo "Missing:$described"
    echo "$1"
  } >&2
  exit 1
}

command -v apt-get >/dev/null 2>&1 ||
  explain "There is no apt-get here. Install these with the package manager of this system, then run make again."
as_root=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null 2>&1 || explain "As root: apt-get update && apt-get install$missing"
  as_root="sudo"
fi

echo "installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { $as_root apt-get update -q &&
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
  tail -n 20 "$log" >&2
  explain "apt-get failed (its last lines are above). To try by hand: apt-get update && apt-get install$missing"
fi
